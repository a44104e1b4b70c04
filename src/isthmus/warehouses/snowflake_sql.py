"""The SQL texts of the Snowflake connector, without a connection: what is said, not when.

Snowflake folds a name without quotes to upper case, and so do we: a table `klaviyo_event` is `KLAVIYO_EVENT` there, and
a person queries it without quotes in whatever case. A name that needs quotes there is taken as it is. We always quote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from isthmus.duck import identifier
from isthmus.model.table import DELETED, SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.warehouses import sql
from isthmus.warehouses.protocol import Window
from isthmus.warehouses.types import SNOWFLAKE

LOCK_TIMEOUT_S = 330
"""A little more than the five minutes after which Snowflake ends an idle transaction that others wait for."""
STATEMENT_TIMEOUT_S = 3600

SESSION: dict[str, object] = {
    "TIMEZONE": "UTC",
    "QUERY_TAG": "isthmus",
    "LOCK_TIMEOUT": LOCK_TIMEOUT_S,
    "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT_TIMEOUT_S,
    "ABORT_DETACHED_QUERY": True,  # a statement whose client is gone ends after five minutes
    # What an account may have set otherwise, and what we rely on.
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "ERROR_ON_NONDETERMINISTIC_MERGE": True,
    "ROWS_PER_RESULTSET": 0,
    "CLIENT_TELEMETRY_ENABLED": False,
}

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def folded(name: str) -> str:
    """A name as Snowflake keeps it: upper case, if it may be written without quotes; as it is between quotes."""
    if len(name) > 2 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name.upper() if _PLAIN.fullmatch(name) else name


def quoted(*names: str) -> str:
    """A dotted name in quotes, each part as Snowflake keeps it."""
    return ".".join(identifier(folded(name)) for name in names)


def listed(names: Iterable[str], *, of: str = "") -> str:
    """Quoted names of columns of ours, comma-separated, each behind the alias `of` if there is one."""
    return sql.names((folded(name) for name in names), of=of)


def text(value: str) -> str:
    """A text as a literal; to Snowflake, a backslash in one begins an escape."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


_SEQ, _DELETED = quoted(SEQ), quoted(DELETED)


# Tables

RECEIPT_COLUMNS = tuple(Column(folded(c.name), c.type) for c in sql.RECEIPT_COLUMNS)


def definitions(columns: Iterable[Column]) -> str:
    return sql.definitions((Column(folded(c.name), c.type) for c in columns), SNOWFLAKE)


def create_table(name: str, columns: Iterable[Column]) -> str:
    lines = ",\n    ".join(definitions([c]) for c in columns)
    return f"CREATE TABLE IF NOT EXISTS {name} (\n    {lines}\n)"


def stage_table(name: str, table: Table) -> str:
    """The table rows wait in. It is of this session only, and gone with it."""
    columns = [*table.columns, Column(DELETED, Type.BOOLEAN)]
    return f"CREATE OR REPLACE TEMPORARY TABLE {name} ({definitions(columns)})"


def copy(target: str, place: str) -> str:
    """All files of a place into a table, by the names of their columns, or none of them."""
    return (
        f"COPY INTO {target} FROM {place} FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE) "
        "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT PURGE = TRUE"
    )


def put(path: str, place: str) -> str:
    file = path if path.startswith("/") else f"/{path}"  # a drive letter has none
    return f"PUT {text(f'file://{file}')} {place} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"


# Loading

RECEIPT = ", ".join(
    [
        *(quoted(c) for c in ("table_name", "rows", "after_seq", "upto_seq")),
        f"DATE_PART(EPOCH_MICROSECOND, {quoted('loaded_at')})",
    ]
)
"""The columns `sql.receipt` wants."""


def lock_name(table: Table) -> str:
    return f"lock of {table.name}"


def lock(receipts: str, table: Table, token: int) -> str:
    """Takes the row that everybody takes who loads into a table. UPDATE locks it until the transaction ends, as INSERT
    would not; and `token`, seen again at the end, proves that it is the same transaction still."""
    return (
        f"UPDATE {receipts} SET {quoted('after_seq')} = {token} "
        f"WHERE {quoted('batch_id')} = {text(lock_name(table))} AND {quoted('loaded_at')} IS NULL"
    )


def make_lock(receipts: str, table: Table) -> str:
    values = f"{text(lock_name(table))}, NULL"
    return f"INSERT INTO {receipts} ({listed(['batch_id', 'loaded_at'])}) SELECT {values}"


def write_receipt(receipts: str, batch: Batch) -> str:
    """Writes the receipt if there is none. It sees what others committed before it began: we hold the lock by then."""
    after, upto = ("NULL" if s is None else str(s) for s in (batch.seqs.after, batch.seqs.upto))
    values = f"{text(batch.batch_id)}, {text(batch.table.name)}, {after}, {upto}, {batch.rows}, CURRENT_TIMESTAMP()"
    return (
        f"INSERT INTO {receipts} ({listed(c.name for c in RECEIPT_COLUMNS)}) SELECT {values} "
        f"WHERE NOT EXISTS (SELECT 1 FROM {receipts} WHERE {_is_receipt(batch.batch_id)})"
    )


def receipt(receipts: str, batch_id: str) -> str:
    return f"SELECT {RECEIPT} FROM {receipts} WHERE {_is_receipt(batch_id)}"


def _is_receipt(batch_id: str) -> str:
    return f"{quoted('batch_id')} = {text(batch_id)} AND {quoted('loaded_at')} IS NOT NULL"


def proof(receipts: str, table: Table, token: int) -> str:
    """Asks whether the lock holds our token: no, if the transaction in which it was written is not the present one."""
    return (
        f"SELECT COUNT(*) FROM {receipts} WHERE {quoted('batch_id')} = {text(lock_name(table))} "
        f"AND {quoted('after_seq')} = {token}"
    )


def in_range(seqs: SeqRange) -> str:
    """`sql.in_range`, with the column's name as it is here."""
    return sql.in_range(seqs).replace(identifier(SEQ), _SEQ)


def upsert(batch: Batch, target: str, waiting: str) -> str:
    """Take over what waits: the newest version of each key, unless what is there is newer."""
    table = batch.table
    keys = [folded(k) for k in table.key]
    columns = [folded(c.name) for c in table.columns]
    newest = (
        f"SELECT * FROM {waiting} QUALIFY ROW_NUMBER() OVER "
        f"(PARTITION BY {sql.names(keys)} ORDER BY {_SEQ} DESC NULLS LAST) = 1"
    )
    newer = "" if batch.replaces is not None else f" AND (t.{_SEQ} IS NULL OR t.{_SEQ} <= s.{_SEQ})"
    is_gone = f"COALESCE(s.{_DELETED}, FALSE)"
    values = ", ".join(f"t.{identifier(c)} = s.{identifier(c)}" for c in columns if c not in keys)
    update = f"WHEN MATCHED AND NOT {is_gone}{newer} THEN UPDATE SET {values} " if values else ""
    return (
        f"MERGE INTO {target} AS t USING ({newest}) AS s ON {sql.same(keys, 't', 's')} "
        f"WHEN MATCHED AND {is_gone}{newer} THEN DELETE {update}"
        f"WHEN NOT MATCHED AND NOT {is_gone} THEN INSERT ({sql.names(columns)}) VALUES ({sql.names(columns, of='s')})"
    )


def append(table: Table, target: str, waiting: str) -> str:
    """Take over what waits and is not deleted, where nothing of it is there yet."""
    columns = listed(c.name for c in table.columns)
    return f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {waiting} WHERE NOT COALESCE({_DELETED}, FALSE)"


# Proof


def tally(table: Table, name: str, seqs: SeqRange) -> str:
    return (
        f"SELECT {_SEQ}, COUNT(*), SUM({row_digest(table.columns)}) FROM {name} WHERE {in_range(seqs)} "
        f"GROUP BY {_SEQ} ORDER BY {_SEQ} NULLS FIRST"
    )


def row_digest(columns: Iterable[Column]) -> str:
    """Snowflake's spelling of `isthmus.duck.row_digest`."""
    parts = (f"COALESCE('=' || {_canonical(c)}, '')" for c in columns)
    return f"TO_NUMBER(SUBSTR(MD5({' || CHR(31) || '.join(parts)}), 1, 15), '{'X' * 15}')"


def _canonical(column: Column) -> str:
    name = quoted(column.name)
    match column.type:
        case Type.TEXT | Type.JSON:
            return name
        case Type.TIMESTAMP:
            return f"TO_VARCHAR(DATE_PART(EPOCH_MICROSECOND, {name}))"
        case Type.DOUBLE:
            # Fifteen digits and an exponent of always five characters, from which a zero in front is taken: E+002.
            digits = f"LTRIM(TO_VARCHAR({name}, '9.{'9' * 14}EEEEE'))"
            shown = f"REGEXP_REPLACE({digits}, 'E([+-])0?([0-9]{{2,3}})$', 'e\\\\1\\\\2')"
            return f"CASE WHEN {name} = 0 THEN '0.{'0' * 14}e+00' ELSE {shown} END"
        case Type.BIGINT:
            return f"TO_VARCHAR({name})"
        case Type.BOOLEAN:
            return f"CASE {name} WHEN TRUE THEN '1' WHEN FALSE THEN '0' END"


# Reading


def relations(database: str, schema: str) -> str:
    """Asks for the tables and views of a schema that the role may see."""
    return (
        f'SELECT "TABLE_NAME", "TABLE_TYPE" FROM {quoted(database)}.INFORMATION_SCHEMA.TABLES '
        f'WHERE "TABLE_SCHEMA" = {text(folded(schema))} ORDER BY "TABLE_NAME"'
    )


def in_window(window: Window | None, kind: str, *, of: str) -> str:
    """The condition of a window over a changed-at column of a kind of time. Without a zone it is taken as UTC."""
    if window is None:
        return "TRUE"
    name = f"{of}.{identifier(window.changed_at)}"
    if window.nulls:
        return f"({name} IS NULL OR {name} < {_instant(datetime.min.replace(tzinfo=UTC), kind)})"
    bounds = [(">=", window.start), ("<=", window.end)]
    return " AND ".join(f"{name} {op} {_instant(at, kind)}" for op, at in bounds if at is not None) or "TRUE"


def _instant(moment: datetime, kind: str) -> str:
    """A moment of the column's own kind, so that whole partitions can be left out by it."""
    shown = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    zoned = kind in ("TIMESTAMP_TZ", "TIMESTAMP_LTZ")
    return f"'{shown} +00:00'::TIMESTAMP_TZ(9)" if zoned else f"'{shown}'::TIMESTAMP_NTZ(9)"


def in_order(window: Window | None, *, of: str) -> str:
    if window is None:
        return ""
    return f" ORDER BY {sql.names([window.changed_at, *([window.key] if window.key else [])], of=of)}"


def utc(expression: str, kind: str) -> str:
    """A date or time as a time of UTC without a zone, in microseconds: years 1 to 9999 fit the driver's numbers."""
    zoned = kind in ("TIMESTAMP_TZ", "TIMESTAMP_LTZ")
    return f"CONVERT_TIMEZONE('UTC', {expression})::TIMESTAMP_NTZ(6)" if zoned else f"{expression}::TIMESTAMP_NTZ(6)"


def microseconds(expression: str, kind: str) -> str:
    return f"DATE_PART(EPOCH_MICROSECOND, {utc(expression, kind)})"


def count(window: Window, kind: str, origin: str) -> str:
    """Rows, first, last, checksum and now of a window."""
    moment = f"q.{identifier(window.changed_at)}"
    hashed = sql.names([window.changed_at, *([window.key] if window.key else [])], of="q")
    return (
        f"SELECT COUNT(*), {microseconds(f'MIN({moment})', kind)}, {microseconds(f'MAX({moment})', kind)}, "
        f"HASH_AGG({hashed}), DATE_PART(EPOCH_MICROSECOND, CURRENT_TIMESTAMP()) FROM {origin} "
        f"WHERE {in_window(window, kind, of='q')}"
    )
