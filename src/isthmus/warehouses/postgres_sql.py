"""The SQL texts of the PostgreSQL connector, without a connection: what is said, not when."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from isthmus.duck import identifier, literal
from isthmus.model.errors import Denied
from isthmus.model.table import DELETED, RECEIPTS, SEQ, Batch, Column, Table, Type
from isthmus.warehouses import sql
from isthmus.warehouses.protocol import Direction, Window
from isthmus.warehouses.types import POSTGRES

LOCK_TIMEOUT_S = 60
STATEMENT_TIMEOUT_S = 3600

_SETTINGS = {
    "TimeZone": "UTC",
    # Nothing waits for ever: not for somebody else's lock, not for a statement gone wrong.
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    # A worker that is frozen between two statements must not keep others from the same rows.
    "idle_in_transaction_session_timeout": "60s",
}
SESSION = "SELECT " + ", ".join(f"set_config({literal(n)}, {literal(v)}, false)" for n, v in _SETTINGS.items())
"""Said first in every session. One statement rather than parameters of the connection: poolers refuse those."""

PARAMETERS: dict[str, object] = {
    "application_name": "isthmus",
    "client_encoding": "UTF8",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 4,
    "tcp_user_timeout": 120_000,
}

LOCKED = "55P03"
"""The SQLSTATE of somebody else's lock that was waited for in vain."""


def at_batch(batch_id: str) -> str:
    """Has the session say, until the end of the transaction, which batch it is at."""
    return f"SELECT set_config('application_name', {literal(_name(batch_id))}, true)"


def put_out(batch_id: str) -> str:
    """Ends the other sessions of this role that are at a batch and have nothing to do, because the process at the other
    end says nothing: COPY would wait for its rows for an hour. A row for each."""
    return (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND usename = session_user AND application_name = {literal(_name(batch_id))} "
        "AND pid <> pg_backend_pid() AND wait_event_type = 'Client'"
    )


def _name(batch_id: str) -> str:
    return f"isthmus at {hashlib.md5(batch_id.encode(), usedforsecurity=False).hexdigest()}"


def microseconds(expression: str) -> str:
    """A date or timestamp as whole microseconds since 1970; infinity as a number beyond all years."""
    moment = f"({expression})::timestamp"
    return (
        f"CASE {moment} WHEN 'infinity' THEN 9223372036854775807 WHEN '-infinity' THEN -9223372036854775807 "
        f"ELSE (extract(epoch FROM {moment}) * 1000000)::bigint END"
    )


RECEIPT = f"table_name, rows, after_seq, upto_seq, {microseconds('loaded_at')}"
"""The columns `sql.receipt` wants."""

# Column types that come out of the driver as plain Arrow types. All others are asked for as text.
_PLAIN = frozenset(
    "bool int2 int4 int8 float4 float8 text varchar bpchar name bytea date timestamp timestamptz".split()
)
_TYPE_NAMES = {"timestamptz": "timestamp with time zone", "timestamp": "timestamp without time zone"}


def row_digest(columns: Iterable[Column]) -> str:
    """PostgreSQL's spelling of `isthmus.duck.row_digest`."""
    parts = (f"coalesce('=' || {_canonical(c)}, '')" for c in columns)
    text = " || chr(31) || ".join(parts)
    return f"('x0' || substr(md5(convert_to({text}, 'UTF8')), 1, 15))::bit(64)::bigint"


def _canonical(column: Column) -> str:
    name = identifier(column.name)
    match column.type:
        case Type.TEXT | Type.JSON:
            return f"{name}::text"
        case Type.TIMESTAMP:
            return f"(extract(epoch FROM {name}) * 1000000)::bigint::text"
        case Type.DOUBLE:
            # A double becomes a numeric through its 15 significant digits, the very ones the definition asks for.
            return f"ltrim(to_char({name}::numeric, '9.99999999999999EEEE'))"
        case Type.BIGINT:
            return f"{name}::text"
        case Type.BOOLEAN:
            return f"CASE {name} WHEN true THEN '1' WHEN false THEN '0' END"


def create_table(table: Table, name: str) -> str:
    key = f",\n    PRIMARY KEY ({sql.names(table.key)})" if table.key else ""
    columns = ",\n    ".join(sql.definitions([c], POSTGRES) for c in table.columns)
    return f"CREATE TABLE IF NOT EXISTS {name} (\n    {columns}{key}\n)"


def columns(name: str) -> str:
    """Asks for the names and types of a table's columns; there are none if there is no such table."""
    return (
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = to_regclass({literal(name)}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )


def unique_index(table: Table, name: str) -> str:
    """Asks for a unique index over exactly the key of a table."""
    key = ", ".join(literal(k) for k in sorted(table.key))
    return (
        f"SELECT 1 FROM pg_index i WHERE indrelid = to_regclass({literal(name)}) AND indisunique AND indimmediate "
        "AND indisvalid AND indpred IS NULL AND indexprs IS NULL AND "
        '(SELECT array_agg(attname::text ORDER BY attname::text COLLATE "C") FROM pg_attribute a '
        f"WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[])) = ARRAY[{key}]"
    )


def stage(table: Table, target: str, name: str) -> str:
    """Make the staging table: the types of the target's own columns, none of its constraints."""
    chosen = f"SELECT {sql.names(c.name for c in table.columns)}, false AS {identifier(DELETED)} FROM {target}"
    return f"CREATE TEMP TABLE {name} ON COMMIT DROP AS {chosen} WITH NO DATA"


def upsert(batch: Batch, target: str, name: str) -> Iterator[str]:
    """Take over what is staged: the newest version of each key, unless what is there is newer."""
    table, seq, deleted = batch.table, identifier(SEQ), identifier(DELETED)
    keys = sql.names(table.key)
    others = [c.name for c in table.columns if c.name not in table.key]
    newest = f"(SELECT DISTINCT ON ({keys}) * FROM {name} ORDER BY {keys}, {seq} DESC NULLS LAST)"
    is_newer = "true" if batch.replaces is not None else f"(t.{seq} IS NULL OR t.{seq} <= {{}}.{seq})"
    yield (
        f"DELETE FROM {target} AS t USING {newest} AS s "
        f"WHERE s.{deleted} AND {sql.same(table.key, 't', 's')} AND {is_newer.format('s')}"
    )
    values = ", ".join(f"{identifier(c)} = excluded.{identifier(c)}" for c in others)
    names = sql.names(c.name for c in table.columns)
    yield (
        f"INSERT INTO {target} AS t ({names}) SELECT {names} FROM {newest} AS s WHERE {deleted} IS NOT TRUE "
        f"ON CONFLICT ({keys}) DO UPDATE SET {values} WHERE {is_newer.format('excluded')}"
    )


def relations(schema: str) -> str:
    """Asks for the tables and views of a schema that the user may read."""
    return (
        "SELECT nspname::text, relname::text, CASE WHEN relkind IN ('v', 'm') THEN 'view' ELSE 'table' END "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE nspname = {literal(schema)} AND relkind IN ('r', 'p', 'f', 'v', 'm') "
        "AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') "
        'ORDER BY relname::text COLLATE "C"'
    )


def find(schema: str, name: str) -> str:
    """Asks for a relation as its names are really written: exactly so, or else in lower case as PostgreSQL folds."""
    return (
        "SELECT nspname::text, relname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE nspname IN ({literal(schema)}, lower({literal(schema)})) "
        f"AND relname IN ({literal(name)}, lower({literal(name)})) AND relkind IN ('r', 'p', 'f', 'v', 'm') "
        f"ORDER BY nspname = {literal(schema)} DESC, relname = {literal(name)} DESC LIMIT 1"
    )


def may_read_all(schema: str) -> str:
    """Asks whether every table and view of a schema may be read."""
    return (
        "coalesce((SELECT bool_and(has_table_privilege(c.oid, 'SELECT')) FROM pg_class c "
        f"JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = {literal(schema)} "
        "AND relkind IN ('r', 'p', 'f', 'v', 'm')), true)"
    )


def plain_columns(found: pa.Schema) -> str:
    """The select list over an aliased origin `q` after which every column is a plain Arrow type."""
    return ", ".join(_plain(f) for f in found) or "*"


def _plain(field: pa.Field) -> str:
    name, theirs = identifier(field.name), _raw_type(field)
    if theirs in _PLAIN:
        return f"q.{name}"
    if theirs.startswith("_"):  # PostgreSQL's name for an array of the type behind it
        return f"to_json(q.{name})::text AS {name}"
    return f"q.{name}::text AS {name}"


def in_order(window: Window | None) -> str:
    """`sql.in_order`, by the columns of the origin `q` and not by those of the select list."""
    if window is None:
        return ""
    columns = [window.changed_at, *([window.key] if window.key else [])]
    return f" ORDER BY {sql.names(columns, of='q')}"


def type_name(field: pa.Field) -> str:
    """PostgreSQL's name of a read column's type."""
    theirs = _raw_type(field)
    return _TYPE_NAMES.get(theirs, theirs)


def _raw_type(field: pa.Field) -> str:
    return bytes((field.metadata or {}).get(b"POSTGRESQL:type", b"")).decode()


@contextmanager
def granting(origin: str, username: str) -> Iterator[None]:
    """Have a refusal to read `origin`, if it is a table or view, say which statements give the right."""
    try:
        yield
    except Denied as e:
        name, _, alias = origin.rpartition(" AS ")
        if alias == "q" and not name.startswith("("):
            schema, user = name[: name.index('"."') + 1], identifier(username)
            e.hint = f"a right is missing: GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {name} TO {user};"
        raise


def denied() -> Denied:
    return Denied("a right is missing", hint="run the set-up script again, or just the statement given here")


def connection_value(value: object) -> str:
    """A value of a libpq connection string, quoted."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def setup_script(
    tables: Sequence[Table],
    *,
    database: str,
    username: str,
    schema: str,
    import_schema: str,
    temp_schema: str,
    direction: Direction,
    egress: Sequence[str],
) -> str:
    """See `PostgresConfig.setup_script`."""
    user, target, importing, temporary = map(identifier, (username, schema, import_schema, temp_schema))
    parts = [
        f"""\
-- Run with psql as the owner of the database or a superuser. Safe to run twice.
DO $isthmus$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(username)}) THEN
        CREATE ROLE {user} LOGIN;
    END IF;
END
$isthmus$;
-- The password is not in this script. Set it in psql, which does not show or keep it:
--   \\password {user}
"""
    ]
    if egress:
        lines = "".join(f"--   hostssl {database} {username} {_host(address)} scram-sha-256\n" for address in egress)
        parts.append(f"-- Isthmus comes from these addresses: let them in, in pg_hba.conf and the firewall.\n{lines}")
    rights = "CONNECT, TEMPORARY" if direction.exports else "CONNECT"
    parts.append(f"GRANT {rights} ON DATABASE {identifier(database)} TO {user};\n")
    parts.append(
        f"-- Where exported tables go: Isthmus owns them, so that it can add a column.\n"
        f"CREATE SCHEMA IF NOT EXISTS {target};\n"
    )
    if direction.exports:
        parts[-1] += f"GRANT USAGE, CREATE ON SCHEMA {target} TO {user};\n"
        receipts = Table(RECEIPTS, sql.RECEIPT_COLUMNS, key=("batch_id",))
        for table in (receipts, *tables):
            name = f"{target}.{identifier(table.name)}"
            parts[-1] += f"{create_table(table, name)};\nALTER TABLE {name} OWNER TO {user};\n"
    exposing = f"CREATE SCHEMA IF NOT EXISTS {importing};\n"
    if direction.imports:
        exposing = f"""\
-- What Isthmus may read: the tables and views here, now and in future. Future ones are those made by the role that
-- runs this; for another one add: ALTER DEFAULT PRIVILEGES FOR ROLE its_name IN SCHEMA …
{exposing}GRANT USAGE ON SCHEMA {importing} TO {user};
GRANT SELECT ON ALL TABLES IN SCHEMA {importing} TO {user};
ALTER DEFAULT PRIVILEGES IN SCHEMA {importing} GRANT SELECT ON TABLES TO {user};
"""
    parts.append(exposing)
    parts.append(
        f"-- Isthmus's own short-lived tables.\nCREATE SCHEMA IF NOT EXISTS {temporary};\n"
        f"GRANT USAGE, CREATE ON SCHEMA {temporary} TO {user};\n"
    )
    return "\n".join(parts)


def _host(address: str) -> str:
    return address if "/" in address else f"{address}/{128 if ':' in address else 32}"
