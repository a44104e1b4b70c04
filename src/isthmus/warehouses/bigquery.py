"""Google BigQuery as a warehouse: load jobs and scripts to write, the Storage Read API to read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count as counting
from typing import Any, ClassVar
from uuid import uuid4

import pyarrow as pa

from isthmus.model.checks import Check
from isthmus.model.errors import Missing, Unreachable, WarehouseError
from isthmus.model.table import DELETED, RECEIPTS, SEQ, Batch, Column, Receipt, SeqRange, Table, Tally, Type
from isthmus.secrets import Secret
from isthmus.warehouses import bigquery_checks, bigquery_script, bigquery_session, bigquery_sql, sql
from isthmus.warehouses.bigquery_session import ENDPOINT, STORAGE_ENDPOINT, Session
from isthmus.warehouses.bigquery_sql import quoted
from isthmus.warehouses.protocol import Count, Direction, Relation, Traits, Window, setting
from isthmus.warehouses.types import BIGQUERY

_TRAITS = Traits("Google BigQuery", True, True, 4)
_UPLOADS_AT_ONCE = 4
_READABLE_AS_IT_IS = ("TABLE", "SNAPSHOT")


@dataclass(frozen=True)
class BigQueryConfig:
    """A connection to datasets of one Google Cloud project."""

    kind: ClassVar[str] = "bigquery"
    traits: ClassVar[Traits] = _TRAITS

    project_id: str = setting("Project id", help="The Google Cloud project of the datasets", example="my-shop-123456")
    dataset: str = setting("Dataset", help="The dataset the exported tables go to", example="klaviyo")
    service_account_key: Secret = setting(
        "Service-account key", help="The key file of the service account, JSON as Google made it", secret=True
    )
    location: str = setting(
        "Location",
        help="Where the datasets lie; empty: found out from the dataset, and US for ones that the set-up script makes",
        default="",
        example="EU",
        incidental=True,
    )
    import_dataset: str = setting(
        "Import dataset",
        help="The dataset whose tables and views may be imported",
        default=_TRAITS.default_import_schema,
        advanced=True,
        incidental=True,
    )
    temp_dataset: str = setting(
        "Temporary dataset",
        help="A dataset for our own short-lived tables",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )
    maximum_bytes_billed: int = setting(
        "Maximum bytes billed",
        help="A query that would bill more is refused by Google before it runs; 0: no limit",
        default=0,
        example="100000000000",
        advanced=True,
        incidental=True,
    )
    endpoint: str = setting(
        "API endpoint",
        help="Another address of the BigQuery API: Private Service Connect, a regional one, an emulator",
        default=ENDPOINT,
        example="https://bigquery-psc.p.googleapis.com",
        advanced=True,
    )
    storage_endpoint: str = setting(
        "Storage API endpoint",
        help="Another address of the BigQuery Storage API; one with http:// is spoken to without TLS",
        default=STORAGE_ENDPOINT,
        example="https://bigquerystorage-psc.p.googleapis.com",
        advanced=True,
        incidental=True,
    )

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """For bash with gcloud and bq, as in Cloud Shell; by an owner of the project, or a BigQuery admin who may also
        change the project's IAM policy."""
        return bigquery_script.setup_script(
            tables,
            project=self.project_id,
            account=bigquery_session.email(self.service_account_key),
            dataset=self.dataset,
            import_dataset=self.import_dataset,
            temp_dataset=self.temp_dataset,
            location=self.location,
            direction=direction,
            egress=egress,
        )

    def check(self) -> Iterator[Check]:
        """Ten questions. The probes are tables of their own, dropped at once."""
        at = bigquery_checks.reached(self.endpoint)
        yield at
        if not at.passed:
            return
        try:
            session = self._session()
        except WarehouseError as e:
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint)
            return
        with closing(session):
            yield Check("Can we sign in?", True, detail=session.account)
            yield from bigquery_checks.questions(
                session,
                target=self.dataset,
                importing=self.import_dataset,
                temporary=self.temp_dataset,
                location=self.location,
            )

    def open(self) -> BigQueryWarehouse:
        """Get a token for the key, and show it. Raises Unreachable or Denied; no dataset is asked for yet."""
        return BigQueryWarehouse(self, self._session())

    def _session(self) -> Session:
        try:
            import google.cloud.bigquery  # noqa: F401

            found = find_spec("google.cloud.bigquery_storage_v1")  # slow to import, and needed to read only
        except ImportError:
            found = None
        if found is None:
            hint = "install the extra that brings it: pip install 'isthmus[bigquery]'"
            raise Missing("the BigQuery client is not installed", hint=hint)
        return Session(
            self.service_account_key,
            project=self.project_id,
            location=self.location,
            endpoint=self.endpoint,
            storage=self.storage_endpoint,
            limit=self.maximum_bytes_billed,
        )


class BigQueryWarehouse:
    """A signed-in account. What runs at Google has an end there too; nothing is tried again here."""

    def __init__(self, config: BigQueryConfig, session: Session) -> None:
        self._config, self._session = config, session

    # Writing

    def create(self, table: Table) -> None:
        bigquery_sql.require_names(table)
        if self._columns(RECEIPTS) is None:
            self._execute(bigquery_sql.create_receipts(self._in(RECEIPTS)))
        found = self._columns(table.name)
        if found is None:
            self._execute(bigquery_sql.create_table(table, self._in(table.name)))
            found = self._columns(table.name) or {}  # another process may have been first, with other columns
        folded = {name.lower(): kind for name, kind in found.items()}
        theirs = {c.name: folded[c.name.lower()] for c in table.columns if c.name.lower() in folded}
        if missing := sql.missing_columns(table, theirs, BIGQUERY):
            self._execute(bigquery_sql.add_columns(self._in(table.name), missing))

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. What a batch does, it does in one script under a name made from the batch's id: Google lets
        a name be used once, so two processes can not be at the same batch."""
        if receipt := self._receipt(batch.batch_id):
            return replace(receipt, repeated=True)
        staged = self._staged(batch)
        try:
            receipt = self._taken(batch, staged)
        except Unreachable:  # perhaps the script runs on: what it reads stays, until the dataset lets it end
            raise
        except BaseException:
            self._forget(staged)
            raise
        self._forget(staged)
        return receipt

    def _staged(self, batch: Batch) -> list[str]:
        """The tables that the batch's files were loaded into, one each, of nobody but this call."""
        columns = list(batch.table.columns)
        if batch.table.key:
            columns.append(Column(DELETED, Type.BOOLEAN))
        stem = f"_isthmus_stage_{uuid4().hex}"
        names = [f"{stem}_{number}" for number in range(len(batch.files))]
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
            loads = [pool.submit(self._upload, f, n, columns) for f, n in zip(batch.files, names, strict=True)]
        try:
            for load in loads:
                load.result()
        except BaseException:
            self._forget(names)
            raise
        return names

    def _forget(self, staged: Sequence[str]) -> None:
        for name in staged:
            with suppress(WarehouseError):  # it ends by itself: the dataset lets tables live for a day
                self._drop(name)

    def _taken(self, batch: Batch, staged: Sequence[str]) -> Receipt:
        """Have the script run, or wait for the one of another process, whatever it ended with.

        Each failure uses up a name; then the next one may be taken, by one process again. A script that was told to
        have failed may have done its work all the same: the next one asks for the receipt itself.
        """
        project, temporary = self._config.project_id, self._config.temp_dataset
        text = bigquery_sql.take(
            batch, self._in(batch.table.name), self._in(RECEIPTS), [quoted(project, temporary, s) for s in staged]
        )
        where = self._in(batch.table.name)
        stem = hashlib.sha256(f"{where}\n{batch.batch_id}".encode()).hexdigest()[:40]
        location = self._session.location(self._config.dataset)
        values = {"batch_id": batch.batch_id, "table_name": batch.table.name}
        for number in counting():
            name = f"isthmus_{stem}_{number}"
            script = self._session.start(text, values, name=name, location=location)
            if script is not None:
                ((is_new, *row),) = self._end(script)
                return replace(sql.receipt(batch.batch_id, row), repeated=not is_new)
            self._session.wait(name, location=location)
            if receipt := self._receipt(batch.batch_id):
                return replace(receipt, repeated=True)
        raise AssertionError("there is always another number")

    def _end(self, script: Any) -> list[tuple[Any, ...]]:
        return self._session.end(script)

    def receipt(self, batch_id: str) -> Receipt | None:
        try:
            return self._receipt(batch_id)
        except Missing:
            return None

    def _receipt(self, batch_id: str) -> Receipt | None:
        text = f"SELECT {bigquery_sql.RECEIPT} FROM {self._in(RECEIPTS)} WHERE batch_id = @batch_id"
        rows = self._execute(text, batch_id=batch_id)
        return sql.receipt(batch_id, rows[0]) if rows else None

    def reached(self, table: Table) -> int | None:
        text = f"SELECT MAX(upto_seq) FROM {self._in(RECEIPTS)} WHERE table_name = @table_name"
        try:
            upto = self._execute(text, table_name=table.name)[0][0]
        except Missing:
            return None
        return None if upto is None else int(upto)

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        seq = quoted(SEQ)
        checksum = bigquery_sql.total(bigquery_sql.row_digest(table.columns))
        rows = self._execute(
            f"SELECT {seq}, COUNT(*), {checksum} FROM {self._in(table.name)} "
            f"WHERE {bigquery_sql.in_range(seqs)} GROUP BY {seq} ORDER BY {seq}"
        )
        yield from (Tally(s, rows=n, checksum=int(total)) for s, n, total in rows)

    # Reading

    def relations(self) -> Iterator[Relation]:
        importing = self._config.import_dataset
        for name, kind in sorted(self._session.tables(importing)):
            yield Relation(importing, name, "view" if "VIEW" in kind else "table")

    def schema(self, relation: Relation) -> pa.Schema:
        """NUMERIC is a decimal; what Arrow has no word for, or more digits than we take, is text; ARRAY, STRUCT and
        JSON are text in JSON."""
        return bigquery_sql.arrow_schema(self._found(relation)[2])

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """See the protocol, and `schema` for the types. A table of plain columns is read as it is, without a query."""
        kind, origin, theirs = self._found(relation)
        schema = bigquery_sql.arrow_schema(theirs)
        if window is None and bigquery_sql.all_plain(theirs) and kind in _READABLE_AS_IT_IS:
            path = origin.path
        else:
            where = bigquery_sql.in_window(window, sql.window_type(window, theirs, relation) if window else "")
            path = self._session.result_of(
                f"SELECT {bigquery_sql.plain_columns(theirs)} FROM {origin.text} WHERE {where}"
                + bigquery_sql.in_order(window)
                + ("" if limit is None else f" LIMIT {int(limit)}")
            )
        left = limit
        in_order = window is not None or limit is not None
        with closing(self._session.rows(path, in_order=in_order)) as batches:
            for batch in batches:
                rows = batch if left is None else batch.slice(0, left)
                if left is not None:
                    left -= rows.num_rows
                if rows.num_rows:
                    yield rows.cast(schema) if rows.schema != schema else rows
                if left == 0:
                    return

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        _, origin, theirs = self._found(relation)
        if window is None:
            return Count(int(self._execute(f"SELECT COUNT(*) FROM {origin.text}")[0][0]))
        text = bigquery_sql.count(window, origin.text, theirs, relation)
        rows, first, last, checksum, now = self._execute(text)[0]
        return Count(rows, sql.instant(first), sql.instant(last), int(checksum), sql.instant(now))

    def _found(self, relation: Relation) -> tuple[str, _Origin, dict[str, str]]:
        """Kind, place, and types by column. Names are found as they are written, or else in another case."""
        if relation.kind == "query":
            # On lines of its own: the query may end with a comment.
            text = f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
            return "QUERY", _Origin("", text), self._session.shape(f"SELECT * FROM {text}")
        dataset, name = relation.schema or self._config.import_dataset, relation.name
        missing = Missing(f"there is no table or view {relation}", hint="check the name, and that the dataset is right")
        if not bigquery_sql.may_name_a_table(name) or not bigquery_sql.may_name_a_table(dataset):
            raise missing
        try:
            kind, theirs = self._session.described(dataset, name)
        except Missing as e:
            near = [n for n, _ in self._session.tables(dataset) if n.lower() == name.lower()]
            if len(near) != 1:
                raise missing from e
            name = near[0]
            kind, theirs = self._session.described(dataset, name)
        project = self._config.project_id
        path = f"projects/{project}/datasets/{dataset}/tables/{name}"
        return kind, _Origin(path, f"{quoted(project, dataset, name)} AS q"), theirs

    # Inside

    def close(self) -> None:
        self._session.close()

    def _execute(self, text: str, **values: str) -> list[tuple[Any, ...]]:
        return self._session.ask(text, values)

    def _upload(self, file: Any, name: str, columns: Sequence[Column]) -> None:
        self._session.upload(file, self._config.temp_dataset, name, columns, name=f"isthmus{name}")

    def _drop(self, name: str) -> None:
        self._session.drop(self._config.temp_dataset, name)

    def _columns(self, table: str) -> dict[str, str] | None:
        """Types by column; None if there is no such table. Raises Missing if there is no dataset."""
        try:
            return self._session.described(self._config.dataset, table)[1]
        except Missing:
            if self._session.has_dataset(self._config.dataset):
                return None
            raise

    def _in(self, table: str) -> str:
        return quoted(self._config.project_id, self._config.dataset, table)


@dataclass(frozen=True)
class _Origin:
    """What is read: its path for the Storage Read API, and its text in a FROM, named `q`."""

    path: str
    text: str
