"""A signed-in session of Redshift: it makes tables, loads batches and reads rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from isthmus.duck import identifier, literal
from isthmus.model.checks import Check
from isthmus.model.errors import Denied, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import RECEIPTS, Batch, Receipt, SeqRange, Table, Tally, Type
from isthmus.warehouses import redshift_checks, redshift_reading, redshift_sql, redshift_staging, sql
from isthmus.warehouses.protocol import Count, Relation, Window
from isthmus.warehouses.redshift_bucket import StagingBucket
from isthmus.warehouses.redshift_errors import translated
from isthmus.warehouses.redshift_reading import Shape
from isthmus.warehouses.redshift_sql import NEWEST, STAGE

if TYPE_CHECKING:
    from isthmus.warehouses.redshift import RedshiftConfig

UPLOADS_AT_ONCE = 4

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RedshiftWarehouse:
    """A signed-in session, and the bucket beside it if there is one."""

    def __init__(self, config: RedshiftConfig, con: Any) -> None:
        self._config = config
        self._con: Any = con
        self._staging: StagingBucket | None = None

    def reach_bucket(self) -> None:
        """Get into the bucket, if there is one. Raises Denied, Missing or Unreachable."""
        config = self._config
        if config.bucket:
            if not config.iam_role and not (config.access_key_id and config.secret_access_key):
                hint = "give the connection an IAM role of the cluster, or a pair of keys"
                raise Denied("Redshift has nothing to get into the staging bucket with", hint=hint)
            self._staging = StagingBucket(config)
            self._staging.reach(config.prefix)

    # Writing

    def create(self, table: Table) -> None:
        sql.require_distinct(table)
        made = redshift_sql.kept(table)
        self._require(self._config.schema)
        if not self._columns(RECEIPTS):
            receipts = Table(RECEIPTS, sql.RECEIPT_COLUMNS)
            try:
                self._execute(redshift_sql.create_table(receipts, self._in(RECEIPTS)))
            except WarehouseError:
                if not self._columns(RECEIPTS):  # else somebody else made it in the same moment
                    raise
        found = self._columns(made.name)
        if found and not sql.missing_columns(made, found, redshift_sql.REDSHIFT):
            return
        with sql.transaction(self._execute):
            # Two processes making the same table take turns at the receipts.
            self._execute(f"LOCK TABLE {self._in(RECEIPTS)}")
            found = self._columns(made.name)
            if not found:
                self._execute(redshift_sql.create_table(made, self._in(made.name)))
                return
            for column in sql.missing_columns(made, found, redshift_sql.REDSHIFT):
                definition = sql.definitions([column], redshift_sql.REDSHIFT)
                self._execute(f"ALTER TABLE {self._in(made.name)} ADD COLUMN {definition}")

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. Rows are staged first; the transaction then begins with the lock on the receipts, so that
        of two loads of a batch the second one sees the receipt of the first: the snapshot comes after the lock."""
        found = self._receipt(batch.batch_id)
        if found is not None:
            self._clear(batch)
            return replace(found, repeated=True)
        try:
            if batch.files:
                self._stage(batch)
            try:
                made = self._take(batch, careful=False)
            except Rejected:  # by JSON_PARSE, as a rule
                if Type.JSON not in (c.type for c in batch.table.columns):
                    raise
                made = self._take(batch, careful=True)
            self._clear(batch)
            return made
        finally:
            if batch.files:
                with suppress(WarehouseError):
                    self._execute(f"DROP TABLE IF EXISTS {STAGE}")
                    self._execute(f"DROP TABLE IF EXISTS {NEWEST}")

    def _stage(self, batch: Batch) -> None:
        self._execute(redshift_sql.stage(redshift_sql.kept(batch.table), typed=self._staging is not None))
        if self._staging is None:
            for statement in redshift_staging.inserts(batch):
                self._execute(statement)
            return
        attempt = f"{redshift_staging.place(self._config.prefix, batch.batch_id)}{uuid4().hex}/"
        try:
            with TemporaryDirectory(dir=batch.files[0].parent) as folder:
                files = redshift_staging.parquet(batch, Path(folder))
                with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                    list(pool.map(lambda file: self._upload(file, attempt + file.name), files))
                placed = [(self._staging.url(attempt + f.name), f.stat().st_size) for f in files]
            self._put(f"{attempt}manifest", redshift_staging.manifest(placed))
            self._execute(
                f"COPY {STAGE} FROM {literal(self._staging.url(f'{attempt}manifest'))} {self._staging.credentials} "
                "FORMAT AS PARQUET MANIFEST"
            )
        except WarehouseError as e:
            with suppress(WarehouseError):
                self._staging.clear(attempt)
            raise self._explained(e, batch) from e
        self._staging.clear(attempt)

    def _take(self, batch: Batch, *, careful: bool) -> Receipt:
        """Take over what is staged. What does not touch the table is done before the lock."""
        table, typed = redshift_sql.kept(batch.table), self._staging is not None
        target, receipts = self._in(table.name), self._in(RECEIPTS)
        upserts = bool(batch.files) and bool(table.key) and not batch.adds_only
        if upserts:
            self._execute(redshift_sql.newest(table, typed=typed, careful=careful))
        with sql.transaction(self._execute):
            self._execute(f"LOCK TABLE {receipts}")
            found = self._receipt(batch.batch_id)
            if found is not None:
                return replace(found, repeated=True)
            if batch.replaces is not None:
                self._execute(f"DELETE FROM {target} WHERE {sql.in_range(batch.replaces)}")
            if upserts:
                for statement in redshift_sql.upsert(batch, table, target):
                    self._execute(statement)
            elif batch.files:
                self._execute(redshift_sql.insert_staged(table, target, typed=typed, careful=careful))
            self._execute(f"INSERT INTO {receipts} SELECT {sql.receipt_values(batch)}, sysdate AT TIME ZONE 'UTC'")
            made = self._receipt(batch.batch_id)
            assert made is not None
            return made

    def _clear(self, batch: Batch) -> None:
        """Remove what any attempt at a batch left in the bucket: it is in."""
        if self._staging is not None:
            with suppress(WarehouseError):  # a rule of the bucket removes what we may not
                self._staging.clear(redshift_staging.place(self._config.prefix, batch.batch_id))

    def _explained(self, error: WarehouseError, batch: Batch) -> WarehouseError:
        """A refusal of COPY with what Redshift keeps about it."""
        if error.retryable or not error.vendor or error.code.startswith("s3:"):
            return error
        try:
            found = self._execute(
                "SELECT column_name, line_number, error_message FROM sys_load_error_detail "
                "WHERE session_id = pg_backend_pid() ORDER BY start_time DESC LIMIT 1"
            )
        except WarehouseError:
            return error
        if not found:
            return error
        name, line, message = (str(f).strip() for f in found[0])
        columns = [c.name for c in batch.table.columns]
        if name[1:].isdecimal() and int(name[1:]) < len(columns):
            name = columns[int(name[1:])]
        summary = f"Redshift refused the value of column {name} in row {line} of a staged file"
        return Rejected(summary, row=line, column=name, hint=error.hint, code=error.code, vendor=message)

    def receipt(self, batch_id: str) -> Receipt | None:
        try:
            return self._receipt(batch_id)
        except Missing:
            return None

    def reached(self, table: Table) -> int | None:
        return sql.reached(table, self._in(RECEIPTS), lambda query: self._execute(query)[0][0])

    def _receipt(self, batch_id: str) -> Receipt | None:
        rows = self._execute(
            f"SELECT {redshift_sql.RECEIPT} FROM {self._in(RECEIPTS)} WHERE batch_id = {_text(batch_id)}"
        )
        if not rows:
            return None
        *found, loaded_at = rows[0]
        return sql.receipt(batch_id, [*found, (loaded_at - _EPOCH) // timedelta(microseconds=1)])

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        made = redshift_sql.kept(table)
        rows = self._execute(redshift_sql.tally(made, self._in(made.name), seqs))
        yield from (Tally(s, rows=n, checksum=int(total)) for s, n, total in rows)

    # Reading

    def relations(self) -> Iterator[Relation]:
        schema = self._config.import_schema
        self._require(schema)
        found = sorted(self._execute(redshift_sql.relations(schema)))
        yield from (Relation(schema, name, kind) for name, kind in found)

    def schema(self, relation: Relation) -> pa.Schema:
        """NUMERIC is a decimal; SUPER, TIME and what Arrow has no word for are text. Without our technical column."""
        return redshift_reading.schema(self._described(self._from(relation)))

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """See the protocol, and `schema` for the types. Runs in a session of its own, which ends with the iterator.

        Many rows, all of them asked for, come by way of the bucket, if Redshift may write there."""
        origin = self._from(relation)
        found = self._described(origin)
        rest = f" WHERE {_where(relation, window, found)}{redshift_sql.in_order(window)}"
        if limit is None and self._staging is not None:
            query = redshift_reading.select(found, origin, rest, unloads=True)
            is_large = self.count(relation, window=window).rows >= redshift_reading.UNLOADED_FROM_ROWS
            place = self._unload(query, in_order=window is not None) if is_large else None
            if place is not None:
                yield from self._unloaded(place, found)
                return
        query = redshift_reading.select(found, origin, rest + ("" if limit is None else f" LIMIT {int(limit)}"))
        con = self._config.signed_in()
        try:
            redshift_reading.times_as_numbers(con)
            yield from redshift_reading.batches(con, self._say, query, found)
        finally:
            with suppress(Exception):
                con.close()

    def _unload(self, query: str, *, in_order: bool) -> str | None:
        """Where in the bucket the rows are; None if they have to come by a cursor."""
        assert self._staging is not None
        if "$$" in query:
            return None
        place, statement = redshift_reading.unload(query, self._staging, self._config.prefix, in_order=in_order)
        try:
            self._execute(statement)
        except Denied:  # its role may read the bucket only: that is enough to load
            return None
        return place

    def _unloaded(self, place: str, found: Sequence[Shape]) -> Iterator[pa.RecordBatch]:
        # A bucket of its own: this one may be closed before the rows are through.
        staging = StagingBucket(self._config)
        try:
            yield from redshift_reading.unloaded(staging, place, found)
        finally:
            with suppress(WarehouseError):
                staging.clear(place)
            staging.close()

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        origin = self._from(relation)
        if window is None:
            return Count(self._execute(f"SELECT count(*) FROM {origin}")[0][0])
        where = _where(relation, window, self._described(origin))
        rows, first, last, checksum, now = self._execute(redshift_sql.counted(origin, window, where))[0]
        return Count(rows, _aware(first), _aware(last), int(checksum), _aware(now))

    def _from(self, relation: Relation) -> str:
        if relation.kind == "query":
            # On lines of its own: the query may end with a comment.
            return f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
        for query in redshift_sql.find(relation.schema, relation.name):
            for schema, name in self._execute(query):
                return f"{identifier(schema)}.{identifier(name)} AS q"
        raise Missing(f"there is no table or view {relation}", hint="check the name, and that the schema is right")

    def _described(self, origin: str) -> list[Shape]:
        try:
            cursor = self._open().cursor()
            self._say(cursor, f"SELECT * FROM {origin} LIMIT 0")
        except Denied as e:
            name, _, alias = origin.rpartition(" AS ")
            if alias == "q" and not name.startswith("("):
                schema, user = name[: name.index('"."') + 1], identifier(self._config.username)
                grants = f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {name} TO {user};"
                e.hint = f"a right is missing: {grants}"
            raise
        return [shape for shape in redshift_reading.shapes(cursor) if shape.name != redshift_sql.DIGEST]

    # Set-up

    def questions(self) -> Iterator[Check]:
        """The checks of an open session, in order."""
        yield from redshift_checks.questions(self._config, self._execute, self._staging)

    def _require(self, schema: str) -> None:
        if not self._execute(f"SELECT 1 FROM pg_namespace WHERE nspname = {literal(schema)}"):
            hint = f"run the set-up script, or: CREATE SCHEMA {identifier(schema)};"
            raise Missing(f"there is no schema {schema}", hint=hint)

    def _columns(self, table: str) -> dict[str, str]:
        return {name: kind for name, kind in self._execute(redshift_sql.columns(self._config.schema, table))}

    # Inside

    def close(self) -> None:
        con, self._con = self._con, None
        if con is not None:
            with suppress(Exception):  # a session that broke cannot say goodbye
                con.close()
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def _upload(self, file: Path, key: str) -> None:
        """Every file of rows goes through here."""
        assert self._staging is not None
        self._staging.upload(file, key)

    def _put(self, key: str, content: bytes) -> None:
        assert self._staging is not None
        self._staging.put(key, content)

    def _execute(self, statement: str) -> list[Any]:
        """Every statement but those of a streamed read goes through here."""
        cursor = self._open().cursor()
        self._say(cursor, statement)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def _say(self, cursor: Any, statement: str) -> None:
        with translated(self._config.password, self._config.secret_access_key):
            try:
                cursor.execute(statement)
            finally:
                # The driver keeps the text of every statement, which adds up when rows travel in them.
                cursor._c._caches.clear()

    def _open(self) -> Any:
        if self._con is None:
            raise Unreachable("the connection is closed", hint="open it again")
        return self._con

    def _in(self, name: str) -> str:
        return f"{identifier(self._config.schema)}.{identifier(name)}"


def _where(relation: Relation, window: Window | None, found: Sequence[Shape]) -> str:
    if window is None:
        return "true"
    return sql.in_window(window, sql.window_type(window, {s.name: s.kind for s in found}, relation))


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _text(value: str) -> str:
    """A literal in which a backslash is one, whatever Redshift takes it for."""
    return " || chr(92) || ".join(literal(part) for part in value.split("\\"))
