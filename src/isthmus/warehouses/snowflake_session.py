"""A session at Snowflake: Parquet files go up as they are, one COPY takes them, one transaction takes them over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from secrets import randbits, token_hex
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.duck import identifier
from isthmus.model.errors import Busy, Denied, Missing, Unreachable, WarehouseError
from isthmus.model.table import DELETED, RECEIPTS, Batch, Receipt, SeqRange, Table, Tally
from isthmus.warehouses import snowflake_checks, snowflake_reading, snowflake_sql, sql
from isthmus.warehouses.protocol import Count, Relation, Window
from isthmus.warehouses.snowflake_errors import translated, with_grant
from isthmus.warehouses.snowflake_reading import Found
from isthmus.warehouses.types import SNOWFLAKE

if TYPE_CHECKING:
    from isthmus.warehouses.snowflake import SnowflakeConfig

UPLOADS_AT_ONCE = 8

_STAGE, _ROWS = "_ISTHMUS_STAGE", "_ISTHMUS_ROWS"


class SnowflakeWarehouse:
    """A signed-in session. Autocommit is off: what changes rows ends with a COMMIT of ours."""

    def __init__(self, config: SnowflakeConfig, con: Any) -> None:
        self._config = config
        self._con: Any = con
        self._has_stage = False

    # Writing

    def create(self, table: Table) -> None:
        sql.require_distinct(table)
        if not self._columns(RECEIPTS):
            self._execute(snowflake_sql.create_table(self._in(RECEIPTS), snowflake_sql.RECEIPT_COLUMNS))
        name = self._in(table.name)
        found = self._columns(table.name)
        if not found:
            self._execute(snowflake_sql.create_table(name, table.columns))
            found = self._columns(table.name)  # it may have been somebody else's, with other columns
        theirs = {c.name: found[there] for c in table.columns if (there := snowflake_sql.folded(c.name)) in found}
        for column in sql.missing_columns(table, theirs, SNOWFLAKE):
            self._execute(f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {snowflake_sql.definitions([column])}")

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. Files are staged before the transaction begins; the lock in it is taken first."""
        found = self.receipt(batch.batch_id)
        if found is not None:
            return replace(found, repeated=True)
        receipts, target = self._in(RECEIPTS), self._in(batch.table.name)
        place = self._staged(batch) if batch.files else ""
        waiting = ""
        if place and not _may_go_straight(batch):
            waiting = self._temporary(_ROWS)
            self._execute(snowflake_sql.stage_table(waiting, batch.table))
            self._copy(batch, waiting, place)
            self._execute("COMMIT")  # without autocommit, COPY has begun a transaction
        token = randbits(60)
        with sql.transaction(self._execute):
            if not self._changed(snowflake_sql.lock(receipts, batch.table, token)):
                self._execute("ROLLBACK")
                self._execute(snowflake_sql.make_lock(receipts, batch.table))
                self._execute("COMMIT")
                self._execute("BEGIN")
                self._changed(snowflake_sql.lock(receipts, batch.table, token))
            is_new = self._changed(snowflake_sql.write_receipt(receipts, batch))
            if is_new:
                self._take(batch, target, place, waiting)
            rows = self._execute(snowflake_sql.receipt(receipts, batch.batch_id))
            self._prove(batch.table, token)
        return replace(sql.receipt(batch.batch_id, rows[0]), repeated=not is_new)

    def _take(self, batch: Batch, target: str, place: str, waiting: str) -> None:
        if batch.replaces is not None:
            self._execute(f"DELETE FROM {target} WHERE {snowflake_sql.in_range(batch.replaces)}")
        if waiting and batch.table.key and not batch.adds_only:
            self._execute(snowflake_sql.upsert(batch, target, waiting))
        elif waiting:
            self._execute(snowflake_sql.append(batch.table, target, waiting))
        elif place:
            self._copy(batch, target, place)

    def _prove(self, table: Table, token: int) -> None:
        """Raise Busy unless all since the lock was one transaction. Snowflake ends one that is idle while others wait
        for it, and lets what comes after begin another, in which half a batch would be committed."""
        rows = self._execute(snowflake_sql.proof(self._in(RECEIPTS), table, token))
        if int(rows[0][0]) == 0:
            raise Busy(
                "Snowflake ended the transaction, because it was idle while others waited for it",
                hint="nothing of the batch is there; it is loaded again",
            )

    def _copy(self, batch: Batch, target: str, place: str) -> None:
        """COPY, and look whether it took what was sent: a file that never arrived is not an error to it."""
        answer = self._execute(snowflake_sql.copy(target, place))
        taken = sum(int(row[3]) for row in answer if len(row) > 3)
        if taken != batch.rows:
            raise WarehouseError(
                f"Snowflake took {taken} of the {batch.rows} rows of the batch",
                code="rows missing",
                vendor="; ".join(str(row[:4]) for row in answer),
                hint="nothing of the batch is there; run the sync again",
            )

    def _staged(self, batch: Batch) -> str:
        """Put the batch's files into a place of their own in a stage that ends with the session."""
        stage = self._temporary(_STAGE)
        if not self._has_stage:
            self._execute(f"CREATE TEMPORARY STAGE IF NOT EXISTS {stage}")
            self._has_stage = True
        place = snowflake_sql.text(f"@{stage}/{token_hex(8)}/")
        with TemporaryDirectory(prefix="isthmus-") as folder:
            # Under names of ours: PUT takes * and [ in a path for a pattern, and two files may have one name.
            links = [_linked(file, Path(folder) / f"{n}.parquet") for n, file in enumerate(batch.files)]
            with ThreadPoolExecutor(min(UPLOADS_AT_ONCE, len(links))) as pool:
                list(pool.map(lambda file: self._put(file, place), links))
        return place

    def receipt(self, batch_id: str) -> Receipt | None:
        try:
            rows = self._execute(snowflake_sql.receipt(self._in(RECEIPTS), batch_id))
        except Missing:
            return None
        return sql.receipt(batch_id, rows[0]) if rows else None

    def reached(self, table: Table) -> int | None:
        return sql.reached(table, self._in(RECEIPTS), lambda query: self._execute(query)[0][0])

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        rows = self._execute(snowflake_sql.tally(table, self._in(table.name), seqs))
        yield from (Tally(None if s is None else int(s), rows=int(n), checksum=int(total)) for s, n, total in rows)

    # Reading

    def relations(self) -> Iterator[Relation]:
        schema = self._config.import_schema
        self.require_schema(schema)
        for name, kind in self._execute(snowflake_sql.relations(self._config.database, schema)):
            yield Relation(schema, name, "view" if "VIEW" in kind else "table")

    def schema(self, relation: Relation) -> pa.Schema:
        """Numbers of up to 18 digits are int64, others decimals; documents, times of day and geographies are text."""
        return snowflake_reading.schema(self._described(relation)[1])

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """See the protocol, and `schema` for the types."""
        origin, columns = self._described(relation)
        kind = ""
        if window is not None:
            window, kind = snowflake_reading.resolved(window, columns, relation)
        chosen = ", ".join(c.expression for c in columns)
        statement = f"SELECT {chosen} FROM {origin} WHERE {snowflake_sql.in_window(window, kind, of='q')}"
        statement += snowflake_sql.in_order(window, of="q") + ("" if limit is None else f" LIMIT {int(limit)}")
        wanted = snowflake_reading.schema(columns)
        with translated(self._config.secrets), closing(self._open().cursor()) as cursor:
            cursor.execute(statement)
            for part in cursor.fetch_arrow_batches(force_microsecond_precision=True):
                yield from snowflake_reading.batches(part, wanted)

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        origin, columns = self._described(relation)
        if window is None:
            return Count(int(self._execute(f"SELECT COUNT(*) FROM {origin}")[0][0]))
        window, kind = snowflake_reading.resolved(window, columns, relation)
        found = self._execute(snowflake_sql.count(window, kind, origin))[0]
        rows, first, last, checksum, now = (None if v is None else int(v) for v in found)
        return Count(rows or 0, sql.instant(first), sql.instant(last), checksum, sql.instant(now))

    def _described(self, relation: Relation) -> tuple[str, list[Found]]:
        """Where the rows come from, under the alias `q`, and its columns. A name is taken as it is, or else folded."""
        if relation.kind == "query":
            # On lines of its own: the query may end with a comment.
            origin = f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
            return origin, self._describe(origin)
        database, schema = (identifier(snowflake_sql.folded(n)) for n in (self._config.database, relation.schema))
        names = dict.fromkeys((relation.name, snowflake_sql.folded(relation.name)))
        for n, name in enumerate(names, start=1):
            origin = f"{database}.{schema}.{identifier(name)} AS q"
            try:
                return origin, self._describe(origin)
            except (Missing, Denied) as e:
                if isinstance(e, Denied) or n == len(names):
                    raise with_grant(e, snowflake_checks.to_read(self._config, relation)) from e.__cause__
        raise AssertionError("there is always a name")

    def _describe(self, origin: str) -> list[Found]:
        with translated(self._config.secrets), closing(self._open().cursor()) as cursor:
            return snowflake_reading.found(cursor.describe(f"SELECT * FROM {origin}"))

    # Inside

    def require_schema(self, schema: str) -> None:
        """Raise Missing unless the schema is there, and the role may know of it."""
        self._execute(f"DESCRIBE SCHEMA {snowflake_sql.quoted(self._config.database, schema)}")

    def close(self) -> None:
        if self._con is not None:
            con, self._con = self._con, None
            with suppress(Exception):  # a session that broke cannot say goodbye
                con.close()

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Every statement but PUT and the streamed read goes through here."""
        with translated(self._config.secrets), closing(self._open().cursor()) as cursor:
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    def _put(self, file: Path, place: str) -> None:
        """Every upload goes through here, several at once."""
        with translated(self._config.secrets), closing(self._open().cursor()) as cursor:
            cursor.execute(snowflake_sql.put(file.as_posix(), place))
            row = cursor.fetchone()
        status = str(row[6]) if row and len(row) > 6 else ""
        if status not in ("UPLOADED", "SKIPPED"):
            raise Unreachable(
                "a file could not be put into the stage", code=status, vendor=str(row or ""), hint="it is tried again"
            )

    def _changed(self, statement: str) -> bool:
        """Run a statement that changes rows. Returns whether there was one."""
        return int(self._execute(statement)[0][0]) > 0

    def _open(self) -> Any:
        if self._con is None:
            raise Unreachable("the connection is closed", hint="open it again")
        return self._con

    def _in(self, name: str) -> str:
        return snowflake_sql.quoted(self._config.database, self._config.schema, name)

    def _temporary(self, name: str) -> str:
        return snowflake_sql.quoted(self._config.database, self._config.temp_schema, name)

    def _columns(self, table: str) -> dict[str, str]:
        """The columns of a table of ours with their types; none if it is not there."""
        try:
            return {row[0]: row[1] for row in self._execute(f"DESCRIBE TABLE {self._in(table)}")}
        except Missing:
            return {}


def _linked(file: Path, link: Path) -> Path:
    for way in (os.symlink, os.link, shutil.copyfile):
        try:
            way(file.absolute(), link)
        except OSError:
            continue
        return link
    raise sql.broken_file(FileNotFoundError(str(file)))


def _may_go_straight(batch: Batch) -> bool:
    """Whether COPY may put the files into the table itself: nothing in them is older or deleted."""
    if not batch.table.key:
        return True
    return batch.adds_only and not any(_deletes(file) for file in batch.files)


def _deletes(file: Path) -> bool:
    """Whether a file marks any row as deleted; as a rule its statistics say so."""
    try:
        with pq.ParquetFile(file) as opened:
            index = opened.schema_arrow.get_field_index(DELETED)
            if index < 0:
                return False
            groups = [opened.metadata.row_group(n).column(index).statistics for n in range(opened.num_row_groups)]
            if all(s is not None and s.has_min_max and s.max is False for s in groups):
                return False
            return bool(pc.any(opened.read([DELETED]).column(0)).as_py())
    except (OSError, pa.ArrowException) as e:
        raise sql.broken_file(e) from e
