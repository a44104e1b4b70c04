"""PostgreSQL 14 or later as a warehouse, through ADBC: rows go in and come out as Arrow, by binary COPY."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from isthmus.duck import identifier, literal
from isthmus.model.checks import Check
from isthmus.model.errors import Busy, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import RECEIPTS, SEQ, Batch, Receipt, SeqRange, Table, Tally
from isthmus.secrets import Secret
from isthmus.warehouses import postgres_sql, sql
from isthmus.warehouses.postgres_errors import translate
from isthmus.warehouses.protocol import Count, Direction, Relation, Traits, Window, setting
from isthmus.warehouses.types import POSTGRES

CONNECT_TIMEOUT_S = 15

# Lower case, so that a person can write these names without quotes.
_SCHEMAS = {"default_import_schema": "klaviyo_import_from_dwh", "default_temp_schema": "klaviyo_tmp"}
_TRAITS = Traits("PostgreSQL", True, True, 4, **_SCHEMAS)
_STAGE = "_isthmus_stage"


@dataclass(frozen=True)
class PostgresConfig:
    """A connection to one database of a PostgreSQL server."""

    kind: ClassVar[str] = "postgres"
    traits: ClassVar[Traits] = _TRAITS

    host: str = setting("Host", help="Name or address of the server", example="db.example.com")
    database: str = setting("Database", help="The database to work in", example="analytics")
    username: str = setting("User name", help="The role made by the set-up script", example="isthmus", incidental=True)
    password: Secret = setting("Password", help="The password of that role", secret=True)
    port: int = setting("Port", help="The port the server listens on", default=5432, example="5432")
    schema: str = setting("Schema", help="The schema the exported tables go to", default="public", example="public")
    sslmode: str = setting(
        "TLS mode",
        help="disable, allow, prefer, require, verify-ca or verify-full, as libpq understands them",
        default="prefer",
        advanced=True,
        incidental=True,
    )
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

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """To be run by the owner of the database, or a superuser, with psql."""
        return postgres_sql.setup_script(
            tables,
            database=self.database,
            username=self.username,
            schema=self.schema,
            import_schema=self.import_schema,
            temp_schema=self.temp_schema,
            direction=direction,
            egress=egress,
        )

    def check(self) -> Iterator[Check]:
        """Eight questions. The probes run in transactions that are rolled back, so that they leave nothing."""
        question = "Can the host be reached?"
        if not self.host.startswith("/"):  # a path is the folder of a socket on this machine
            try:
                socket.create_connection((self.host, self.port), timeout=CONNECT_TIMEOUT_S).close()
            except (OSError, UnicodeError) as e:
                hint = "check host and port, and that a firewall lets this machine through"
                yield Check(question, False, detail=f"{self.host}:{self.port}: {e}", hint=hint)
                return
        yield Check(question, True, detail=f"{self.host}:{self.port}")
        try:
            warehouse = self.open()
        except WarehouseError as e:
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint)
            return
        try:
            yield Check("Can we sign in?", True, detail=self.username)
            yield from warehouse.questions()
        finally:
            warehouse.close()

    def open(self) -> PostgresWarehouse:
        """Sign in. Raises Unreachable, Busy (too many connections, starting up), Denied or Missing (the database)."""
        try:
            from adbc_driver_postgresql import dbapi
        except ImportError as e:
            hint = "install the extra that brings it: pip install 'isthmus[postgres]'"
            raise Missing("the PostgreSQL driver is not installed", hint=hint) from e
        parameters = {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.username,
            "password": self.password.reveal(),
            "sslmode": self.sslmode,
            "connect_timeout": CONNECT_TIMEOUT_S,
            **postgres_sql.PARAMETERS,
        }
        uri = " ".join(f"{name}={postgres_sql.connection_value(value)}" for name, value in parameters.items())
        with _translated(self):
            # Autocommit, and BEGIN said by us: the driver's own transactions stay open while nothing is going on.
            return PostgresWarehouse(self, dbapi.connect(uri, autocommit=True))


class PostgresWarehouse:
    """A signed-in session."""

    def __init__(self, config: PostgresConfig, con: Any) -> None:
        self._config = config
        self._con: Any = con
        self._execute(postgres_sql.SESSION)

    # Writing

    def create(self, table: Table) -> None:
        schema = self._config.schema
        with sql.transaction(self._execute):
            # Two processes making the same table take turns; IF NOT EXISTS alone would let one of them fail.
            self._execute("SELECT pg_advisory_xact_lock(4977365)::text")
            self._require(schema)
            if not self._columns(RECEIPTS):
                receipts = sql.definitions(sql.RECEIPT_COLUMNS, POSTGRES)
                self._execute(f"CREATE TABLE {self._in(RECEIPTS)} ({receipts}, PRIMARY KEY (batch_id))")
            found = self._columns(table.name)
            if not found:
                self._execute(postgres_sql.create_table(table, self._in(table.name)))
                return
            for column in sql.missing_columns(table, found, POSTGRES):
                definition = sql.definitions([column], POSTGRES)
                self._execute(f"ALTER TABLE {self._in(table.name)} ADD COLUMN {definition}")
            # A table somebody else made may lack the key by which rows are found again.
            if table.key and not self._execute(postgres_sql.unique_index(table, self._in(table.name))):
                self._execute(f"CREATE UNIQUE INDEX ON {self._in(table.name)} ({sql.names(table.key)})")

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. The receipt is written first: a second load of the same batch waits there for the first,
        and puts it out if its process is frozen or gone. Who may be at a batch is known before: nobody but us."""
        try:
            return self._load(batch)
        except Busy as e:
            if e.code != postgres_sql.LOCKED or not self._execute(postgres_sql.put_out(batch.batch_id)):
                raise
            return self._load(batch)

    def _load(self, batch: Batch) -> Receipt:
        try:
            with sql.transaction(self._execute):
                self._execute(postgres_sql.at_batch(batch.batch_id))
                row = self._execute(
                    f"INSERT INTO {self._in(RECEIPTS)} VALUES ({sql.receipt_values(batch)}, clock_timestamp()) "
                    f"ON CONFLICT (batch_id) DO NOTHING RETURNING {postgres_sql.RECEIPT}"
                )
                if not row:
                    found = self._receipt(batch.batch_id)
                    assert found is not None
                    return replace(found, repeated=True)
                self._take(batch, self._in(batch.table.name))
            return sql.receipt(batch.batch_id, row[0])
        except Rejected as e:
            raise (sql.bad_value(batch, nul=True) or e) from e.__cause__

    def _take(self, batch: Batch, target: str) -> None:
        if batch.replaces is not None:
            self._execute(f"DELETE FROM {target} WHERE {sql.in_range(batch.replaces)}")
        if not batch.files:
            return
        if batch.adds_only or not batch.table.key:
            self._ingest(batch, batch.table.name, db_schema_name=self._config.schema)
            return
        self._execute(postgres_sql.stage(batch.table, target, _STAGE))
        self._ingest(batch, _STAGE, temporary=True)
        self._execute(f"ANALYZE {_STAGE}")
        for statement in postgres_sql.upsert(batch, target, _STAGE):
            self._execute(statement)

    def _ingest(self, batch: Batch, table: str, **where: Any) -> None:
        """Stream the batch's files into a table. Without a stage, rows that are deleted are left out."""
        schema = batch.table.batch_schema if "temporary" in where else batch.table.schema
        broken: list[Exception] = []
        reader = pa.RecordBatchReader.from_batches(schema, sql.rows(batch, schema, broken))
        with _translated(self._config), self._open().cursor() as cursor:
            try:
                cursor.adbc_ingest(table, reader, mode="append", **where)
            except Exception:
                if broken:  # the driver reports our own trouble as if the host had gone
                    raise sql.broken_file(broken[0]) from broken[0]
                raise

    def receipt(self, batch_id: str) -> Receipt | None:
        try:
            return self._receipt(batch_id)
        except Missing:
            return None

    def reached(self, table: Table) -> int | None:
        return sql.reached(table, self._in(RECEIPTS), lambda query: self._execute(query)[0][0])

    def _receipt(self, batch_id: str) -> Receipt | None:
        rows = self._execute(
            f"SELECT {postgres_sql.RECEIPT} FROM {self._in(RECEIPTS)} WHERE batch_id = {literal(batch_id)}"
        )
        return sql.receipt(batch_id, rows[0]) if rows else None

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        seq = identifier(SEQ)
        rows = self._execute(
            f"SELECT {seq}, count(*), sum({postgres_sql.row_digest(table.columns)})::text FROM {self._in(table.name)} "
            f"WHERE {sql.in_range(seqs)} GROUP BY {seq} ORDER BY {seq} NULLS FIRST"
        )
        yield from (Tally(s, rows=n, checksum=int(total)) for s, n, total in rows)

    # Reading

    def relations(self) -> Iterator[Relation]:
        self._require(self._config.import_schema)
        yield from (Relation(*row) for row in self._execute(postgres_sql.relations(self._config.import_schema)))

    def schema(self, relation: Relation) -> pa.Schema:
        """Numbers without limit, JSON, and types Arrow has no word for are text; arrays are text in JSON."""
        origin = self._from(relation)
        chosen = postgres_sql.plain_columns(self._described(origin))
        return self._described(f"(SELECT {chosen} FROM {origin}) AS q").remove_metadata()

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """See the protocol, and `schema` for the types. Runs in a session of its own, which ends with the iterator."""
        origin = self._from(relation)
        found = self._described(origin)
        statement = f"SELECT {postgres_sql.plain_columns(found)} FROM {origin} WHERE {_where(relation, window, found)}"
        # The inner query has the columns as they are: a window is ordered by the value, not by its text.
        statement += postgres_sql.in_order(window) + ("" if limit is None else f" LIMIT {int(limit)}")
        with _translated(self._config):
            con = self._open().adbc_clone()
            try:
                with con.cursor() as cursor:
                    cursor.execute(postgres_sql.SESSION)
                    cursor.execute(
                        "SET statement_timeout = 0"
                    )  # we take our time with what is read: it lands meanwhile
                    cursor.execute(statement)
                    reader = cursor.fetch_record_batch()
                    plain = reader.schema.remove_metadata()
                    for rows in reader:
                        yield pa.RecordBatch.from_arrays(rows.columns, schema=plain)
            finally:
                con.close()

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        origin = self._from(relation)
        if window is None:
            return Count(self._execute(f"SELECT count(*) FROM {origin}")[0][0])
        where, moment = _where(relation, window, self._described(origin)), identifier(window.changed_at)
        hashed = ", ".join(f"{identifier(c)}::text" for c in (window.changed_at, window.key) if c)
        rows, first, last, checksum, now = self._execute(
            f"SELECT count(*), {postgres_sql.microseconds(f'min({moment})')}, "
            f"{postgres_sql.microseconds(f'max({moment})')}, "
            f"coalesce(sum(hashtextextended(concat_ws('|', {hashed}), 0)), 0)::text, "
            f"{postgres_sql.microseconds('clock_timestamp()')} FROM {origin} WHERE {where}"
        )[0]
        return Count(rows, sql.instant(first), sql.instant(last), int(checksum), sql.instant(now))

    def _from(self, relation: Relation) -> str:
        if relation.kind == "query":
            # On lines of its own: the query may end with a comment.
            return f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
        found = self._execute(postgres_sql.find(relation.schema, relation.name))
        if not found:
            raise Missing(f"there is no table or view {relation}", hint="check the name, and that the schema is right")
        return f"{identifier(found[0][0])}.{identifier(found[0][1])} AS q"

    def _described(self, origin: str) -> pa.Schema:
        user = self._config.username
        with postgres_sql.granting(origin, user), _translated(self._config), self._open().cursor() as cursor:
            cursor.execute(f"SELECT * FROM {origin} LIMIT 0")
            with cursor.fetch_record_batch() as reader:
                return reader.schema

    # Set-up

    def questions(self) -> Iterator[Check]:
        """The checks of an open session, in order."""
        config = self._config
        user = identifier(config.username)
        target, importing, temporary = config.schema, config.import_schema, config.temp_schema
        yield sql.schemas_there((target, importing, temporary), self._has_schema)
        yield sql.answer(
            "Can the import schema be used?",
            lambda: self._require_right(
                f"has_schema_privilege({literal(identifier(importing))}::regnamespace, 'USAGE')"
            ),
            f"GRANT USAGE ON SCHEMA {identifier(importing)} TO {user};",
        )
        yield sql.answer(
            "Can its tables and views be read?",
            lambda: self._require_right(postgres_sql.may_read_all(importing)),
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {identifier(importing)} TO {user};",
        )
        probe = f"{identifier(temporary)}._isthmus_probe"
        written = [f"CREATE TABLE {probe} (n integer)", f"INSERT INTO {probe} VALUES (1)", f"SELECT n FROM {probe}"]
        yield sql.answer(
            f"Can we create, write, read and drop a table in {temporary}?",
            lambda: sql.undone(self._execute, [*written, f"DROP TABLE {probe}"]),
            f"GRANT USAGE, CREATE ON SCHEMA {identifier(temporary)} TO {user};",
        )
        yield sql.answer(
            "Can we stage rows?",
            lambda: sql.undone(self._execute, [f"CREATE TEMP TABLE {_STAGE} (n integer) ON COMMIT DROP"]),
            f"GRANT TEMPORARY ON DATABASE {identifier(config.database)} TO {user};",
        )
        probe = self._in("_isthmus_probe")
        yield sql.answer(
            f"Can we load into {target}?",
            lambda: sql.undone(self._execute, [f"CREATE TABLE {probe} (n integer)", f"INSERT INTO {probe} VALUES (1)"]),
            f"GRANT USAGE, CREATE ON SCHEMA {identifier(target)} TO {user};",
        )

    def _require_right(self, question: str) -> None:
        rows = self._execute(f"SELECT {question}")
        if rows[0][0] is not True:
            raise postgres_sql.denied()

    def _require(self, schema: str) -> None:
        if not self._has_schema(schema):
            hint = f"run the set-up script, or: CREATE SCHEMA {identifier(schema)};"
            raise Missing(f"there is no schema {schema}", hint=hint)

    def _has_schema(self, name: str) -> bool:
        return bool(self._execute(f"SELECT 1 FROM pg_namespace WHERE nspname = {literal(name)}"))

    def _columns(self, table: str) -> dict[str, str]:
        return dict(self._execute(postgres_sql.columns(self._in(table))))

    # Inside

    def close(self) -> None:
        if self._con is not None:
            con, self._con = self._con, None
            with suppress(Exception):  # a session that broke cannot say goodbye
                con.close()

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Every statement but the ingest and the streamed read goes through here."""
        with _translated(self._config), self._open().cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _open(self) -> Any:
        if self._con is None:
            raise Unreachable("the connection is closed", hint="open it again")
        return self._con

    def _in(self, name: str) -> str:
        return f"{identifier(self._config.schema)}.{identifier(name)}"


def _where(relation: Relation, window: Window | None, found: pa.Schema) -> str:
    if window is None:
        return "true"
    theirs = {f.name: postgres_sql.type_name(f) for f in found}
    return sql.in_window(window, sql.window_type(window, theirs, relation))


@contextmanager
def _translated(config: PostgresConfig) -> Iterator[None]:
    """Raise the driver's errors as ours."""
    from adbc_driver_manager import Error

    try:
        yield
    except (Error, pa.ArrowException, OSError) as e:
        raise translate(e, secret=config.password) from e
