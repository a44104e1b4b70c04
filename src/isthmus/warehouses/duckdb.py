"""A DuckDB file as a warehouse: the embedded default, and the reference every other connector is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa

from isthmus.duck import connect, identifier, literal, row_digest
from isthmus.model.checks import Check
from isthmus.model.errors import Busy, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import DELETED, RECEIPTS, SEQ, Batch, Receipt, SeqRange, Table, Tally
from isthmus.warehouses import sql
from isthmus.warehouses.duckdb_errors import translate
from isthmus.warehouses.protocol import Count, Direction, Relation, Traits, Window, setting
from isthmus.warehouses.types import DUCKDB

MEMORY_MB = 500

_TRAITS = Traits(title="DuckDB file", loads=True, reads=True, loads_at_once=1)
_NEWEST = "_isthmus_newest"


@dataclass(frozen=True)
class DuckDBConfig:
    """A connection to one DuckDB file. One process at a time may hold the file; it is made if it is not there."""

    kind: ClassVar[str] = "duckdb"
    traits: ClassVar[Traits] = _TRAITS

    path: str = setting("File", help="Where the database file is, or is to be made", example="./dwh.duckdb")
    schema: str = setting("Schema", help="The schema the exported tables go to", default="main", example="main")
    import_schema: str = setting(
        "Import schema",
        help="The schema whose tables and views may be imported",
        default=_TRAITS.default_import_schema,
        advanced=True,
        incidental=True,
    )
    temp_schema: str = setting(
        "Temporary schema",
        help="A schema for our own short-lived tables",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )

    @property
    def file(self) -> Path:
        # Made absolute, so that no name (":memory:", "md:…", "s3://…") means anything but a file here.
        return Path(self.path).expanduser().absolute()

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """The schemas and tables. Isthmus makes them itself as well; the script shows what they are."""
        statements = [_schema(s) for s in (self.schema, self.import_schema, self.temp_schema)]
        for table in tables if direction.exports else ():
            columns = ",\n    ".join(sql.definitions([c], DUCKDB) for c in table.columns)
            statements.append(f"CREATE TABLE IF NOT EXISTS {self._in(table.name)} (\n    {columns}\n)")
        return "".join(f"{s};\n" for s in statements)

    def check(self) -> Iterator[Check]:
        """Five questions. The probes run in a transaction that is rolled back, so that they leave nothing."""
        question = "Can the file be opened?"
        try:
            warehouse = self.open()
        except WarehouseError as e:
            yield Check(question, False, detail=e.summary, hint=e.hint)
            return
        try:
            yield Check(question, True, detail=str(self.file))
            yield from warehouse.questions()
        finally:
            warehouse.close()

    def open(self) -> DuckDBWarehouse:
        """Open the file, or make it, with the schemas of the set-up script in it.

        Raises Missing (no such folder), Denied, Mismatch (not a DuckDB file, or a newer one) or Busy (in use).
        """
        if not self.file.parent.is_dir():
            raise Missing(
                f"there is no folder {self.file.parent} for the database file",
                hint=f"make the folder, or change the path of the connection: mkdir -p {self.file.parent}",
            )
        is_new = not self.file.exists()
        temp_dir = self.file.with_name(self.file.name + ".tmp")
        try:
            with _translated(self.file):
                con = connect(str(self.file), memory_mb=MEMORY_MB, temp_dir=temp_dir)
        except WarehouseError:
            _remove(temp_dir)
            raise
        warehouse = DuckDBWarehouse(self, con, temp_dir)
        if is_new:
            warehouse.make_schemas()
        return warehouse

    def _in(self, name: str) -> str:
        return f"{identifier(self.schema)}.{identifier(name)}"


class DuckDBWarehouse:
    """An open DuckDB file."""

    def __init__(self, config: DuckDBConfig, con: duckdb.DuckDBPyConnection, temp_dir: Path) -> None:
        self._config = config
        self._con: duckdb.DuckDBPyConnection | None = con
        self._temp_dir = temp_dir

    # Writing

    def create(self, table: Table) -> None:
        sql.require_distinct(table)
        with sql.transaction(self._execute):
            self._execute(_schema(self._config.schema))
            receipts = sql.definitions(sql.RECEIPT_COLUMNS, DUCKDB)
            self._execute(f"CREATE TABLE IF NOT EXISTS {self._in(RECEIPTS)} ({receipts}, PRIMARY KEY (batch_id))")
            columns = sql.definitions(table.columns, DUCKDB)
            self._execute(f"CREATE TABLE IF NOT EXISTS {self._in(table.name)} ({columns})")
            for column in sql.missing_columns(table, self._columns(self._config.schema, table.name), DUCKDB):
                definition = sql.definitions([column], DUCKDB)
                self._execute(f"ALTER TABLE {self._in(table.name)} ADD COLUMN IF NOT EXISTS {definition}")

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. `adds_only` is one INSERT … SELECT: as fast as the file can be written."""
        with sql.transaction(self._execute):
            if found := self._receipt(batch.batch_id):
                return replace(found, repeated=True)
            target = self._in(batch.table.name)
            if batch.replaces is not None:
                self._execute(f"DELETE FROM {target} WHERE {sql.in_range(batch.replaces)}")
            if batch.files:
                try:
                    self._take(batch, target)
                except Rejected as e:
                    raise (sql.bad_value(batch, nul=False) or e) from e.__cause__
            return self._write_receipt(batch)

    def _take(self, batch: Batch, target: str) -> None:
        columns = [c.name for c in batch.table.columns]
        origin = sql.parquet(batch.files)
        present = f"NOT coalesce({identifier(DELETED)}, false)" if batch.table.key else "true"
        if batch.table.key and not batch.adds_only:
            origin = self._make_way(batch, target)
        self._execute(
            f"INSERT INTO {target} ({sql.names(columns)}) SELECT {sql.names(columns)} FROM {origin} WHERE {present}"
        )
        self._execute(f"DROP TABLE IF EXISTS temp.{_NEWEST}")

    def _make_way(self, batch: Batch, target: str) -> str:
        """Delete the rows of `target` that the batch supersedes. Returns the FROM of the batch's rows to insert.

        Only the keys and versions of the batch are held, in a temporary table; `target` is scanned by its key column
        once, and its seq column once. A unique index would make this an index look-up and every other load several
        times slower, and would need memory for every key there is.
        """
        key, seq = batch.table.key, identifier(SEQ)
        everything = sql.parquet(batch.files, ", filename='_isthmus_file', file_row_number=true")
        place = "_isthmus_file, file_row_number"
        keys = sql.names(key)
        self._execute(
            f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT {keys}, {seq}, {place} FROM {everything} "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {seq} DESC NULLS LAST, {place}) = 1"
        )
        if batch.replaces is None:
            self._drop_stale(batch, target)
        self._execute(f"DELETE FROM {target} AS t USING temp.{_NEWEST} AS n WHERE {sql.same(key, 't', 'n')}")
        kept, *_ = self._row(f"SELECT count(*) FROM temp.{_NEWEST}")
        if kept == batch.rows:
            return sql.parquet(batch.files)
        return f"{everything} SEMI JOIN temp.{_NEWEST} USING ({place})"

    def _drop_stale(self, batch: Batch, target: str) -> None:
        """Take those rows out of the batch's newest ones that `target` has in a newer version."""
        seq = identifier(SEQ)
        (oldest,) = self._row(f"SELECT coalesce(min(coalesce({seq}, -1)), -1) FROM temp.{_NEWEST}")
        # The bound as a number lets the scan skip every part of the table without newer rows: usually all of it.
        self._execute(
            f"DELETE FROM temp.{_NEWEST} AS n USING {target} AS t WHERE t.{seq} > {oldest} "
            f"AND {sql.same(batch.table.key, 't', 'n')} AND t.{seq} > coalesce(n.{seq}, -1)"
        )

    def receipt(self, batch_id: str) -> Receipt | None:
        try:
            return self._receipt(batch_id)
        except Missing:
            return None

    def reached(self, table: Table) -> int | None:
        return sql.reached(table, self._in(RECEIPTS), lambda query: self._row(query)[0])

    def _receipt(self, batch_id: str) -> Receipt | None:
        found = self._execute(
            f"SELECT table_name, rows, after_seq, upto_seq, epoch_us(loaded_at) FROM {self._in(RECEIPTS)} "
            f"WHERE batch_id = {literal(batch_id)}"
        ).fetchone()
        return sql.receipt(batch_id, found) if found else None

    def _write_receipt(self, batch: Batch) -> Receipt:
        try:
            row = self._row(
                f"INSERT INTO {self._in(RECEIPTS)} VALUES ({sql.receipt_values(batch)}, get_current_timestamp()) "
                "RETURNING table_name, rows, after_seq, upto_seq, epoch_us(loaded_at)"
            )
        except Rejected as e:  # the primary key: another connection has just written this receipt
            hint = "try again in a moment"
            raise Busy("the same batch is being loaded by another process", code=e.code, hint=hint) from e
        return sql.receipt(batch.batch_id, row)

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        seq = identifier(SEQ)
        cursor = self._cursor(
            f"SELECT {seq}, count(*), sum({row_digest(table.columns)}) FROM {self._in(table.name)} "
            f"WHERE {sql.in_range(seqs)} GROUP BY {seq} ORDER BY {seq} NULLS FIRST"
        )
        try:
            while rows := cursor.fetchmany(10_000):
                yield from (Tally(s, rows=n, checksum=int(total)) for s, n, total in rows)
        finally:
            cursor.close()

    # Reading

    def relations(self) -> Iterator[Relation]:
        schema = self._config.import_schema
        found = self._execute(
            "SELECT schema_name, table_name, 'table' FROM duckdb_tables() WHERE NOT internal UNION ALL "
            "SELECT schema_name, view_name, 'view' FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        if not self._has_schema(schema):
            raise Missing(f"there is no schema {schema}", hint=f"make it: {_schema(schema)}")
        yield from (Relation(*row) for row in found if row[0].lower() == schema.lower())

    def schema(self, relation: Relation) -> pa.Schema:
        cursor = self._cursor(f"SELECT * FROM {_from(relation)} LIMIT 0")
        try:
            return cursor.to_arrow_reader().schema
        finally:
            cursor.close()

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        where = self._where(relation, window)
        statement = f"SELECT * FROM {_from(relation)} WHERE {where}{sql.in_order(window)}"
        cursor = self._cursor(statement + ("" if limit is None else f" LIMIT {int(limit)}"))
        try:
            with _translated(self._config.file):
                yield from cursor.to_arrow_reader(65_536)
        finally:
            cursor.close()

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        where = self._where(relation, window)
        if window is None:
            (rows,) = self._row(f"SELECT count(*) FROM {_from(relation)}")
            return Count(rows)
        moment = identifier(window.changed_at)
        hashed = sql.names([window.changed_at, *([window.key] if window.key else [])])
        rows, first, last, checksum, now = self._row(
            f"SELECT count(*), {_microseconds(f'min({moment})')}, {_microseconds(f'max({moment})')}, "
            f"coalesce(sum(hash({hashed})::HUGEINT), 0), epoch_us(now()) FROM {_from(relation)} WHERE {where}"
        )
        return Count(rows, sql.instant(first), sql.instant(last), int(checksum), sql.instant(now))

    def _where(self, relation: Relation, window: Window | None) -> str:
        if window is None:
            return "true"
        described = self._execute(f"DESCRIBE SELECT * FROM {_from(relation)}").fetchall()
        return sql.in_window(window, sql.window_type(window, {row[0]: row[1] for row in described}, relation))

    # Set-up

    def make_schemas(self) -> None:
        """What the set-up script makes, without the tables."""
        for schema in (self._config.schema, self._config.import_schema, self._config.temp_schema):
            self._execute(_schema(schema))

    def questions(self) -> Iterator[Check]:
        """The checks of an open file, in order."""
        config = self._config
        yield sql.schemas_there((config.schema, config.import_schema, config.temp_schema), self._has_schema)
        making = f"{_schema(config.import_schema)};"
        yield sql.answer("Can the import schema be read?", lambda: list(self.relations()), making)
        for question, schema in (
            (f"Can we create, write, read and drop a table in {config.temp_schema}?", config.temp_schema),
            (f"Can we load into {config.schema}?", config.schema),
        ):
            probe = f"{identifier(schema)}._isthmus_probe"
            statements = [f"CREATE TABLE {probe} (n INTEGER)", f"INSERT INTO {probe} VALUES (1)"]
            statements += [f"SELECT n FROM {probe}", f"DROP TABLE {probe}"]
            attempt = partial(sql.undone, self._execute, statements)
            yield sql.answer(question, attempt, f"{_schema(schema)};")

    def close(self) -> None:
        if self._con is not None:
            self._con.close()
            self._con = None
            _remove(self._temp_dir)

    # Inside

    def _execute(self, statement: str) -> duckdb.DuckDBPyConnection:
        """Every statement on our one connection goes through here."""
        with _translated(self._config.file):
            return self._open().execute(statement)

    def _cursor(self, statement: str) -> duckdb.DuckDBPyConnection:
        """A result of its own, so that rows can still be read while the connection runs other statements."""
        with _translated(self._config.file):
            cursor = self._open().cursor()
            cursor.execute("SET TimeZone='UTC'")
            return cursor.execute(statement)

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._con is None:
            raise Unreachable("the connection to the database file is closed", hint="open it again")
        return self._con

    def _row(self, statement: str) -> tuple[Any, ...]:
        row = self._execute(statement).fetchone()
        assert row is not None
        return row

    def _in(self, name: str) -> str:
        return self._config._in(name)

    def _columns(self, schema: str, table: str) -> dict[str, str]:
        rows = self._execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
            f"AND lower(schema_name) = lower({literal(schema)}) AND lower(table_name) = lower({literal(table)})"
        ).fetchall()
        return dict(rows)

    def _has_schema(self, name: str) -> bool:
        (found,) = self._row(
            "SELECT count(*) FROM duckdb_schemas() WHERE database_name = current_database() "
            f"AND lower(schema_name) = lower({literal(name)})"
        )
        return bool(found)


def _schema(name: str) -> str:
    return f"CREATE SCHEMA IF NOT EXISTS {identifier(name)}"


def _from(relation: Relation) -> str:
    if relation.kind == "query":
        # On lines of its own: the query may end with a comment.
        return f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
    return f"{identifier(relation.schema)}.{identifier(relation.name)}"


def _microseconds(expression: str) -> str:
    moment = f"({expression})::TIMESTAMP"
    # epoch_us of infinity is NULL, which would read as "no rows with a time".
    return f"CASE WHEN isinf({moment}) THEN if({moment} > 'epoch', 1, -1) * {2**62} ELSE epoch_us({moment}) END"


def _remove(temp_dir: Path) -> None:
    # Only when empty: another connection of this process to the same file shares it, and DuckDB clears its own files.
    with suppress(OSError):
        temp_dir.rmdir()


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    """Raise DuckDB's errors as ours: by their class, and by their words where a class has several meanings."""
    try:
        yield
    except (duckdb.Error, OSError) as e:
        raise translate(e, file) from e
