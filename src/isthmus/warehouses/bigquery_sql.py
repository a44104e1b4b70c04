"""The SQL texts of the BigQuery connector, without a connection: what is said, not when."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta

import pyarrow as pa

from isthmus.model.errors import Mismatch
from isthmus.model.table import DELETED, RECEIPTS, SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.warehouses import sql
from isthmus.warehouses.protocol import Relation, Window
from isthmus.warehouses.types import BIGQUERY

RECEIPT = "table_name, `rows`, after_seq, upto_seq, UNIX_MICROS(loaded_at)"
"""The columns `sql.receipt` wants."""

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_RESERVED = ("_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier", "_change_")
_IN_TABLE_NAMES = ("L", "M", "N", "Pc", "Pd", "Zs")


def quoted(*parts: str) -> str:
    """A name of one or more parts, quoted."""
    return ".".join("`" + part.replace("\\", "\\\\").replace("`", "\\`") + "`" for part in parts)


def may_name_a_table(name: str) -> bool:
    """Whether BigQuery lets a table have that name: letters, marks, numbers, connectors, dashes and spaces."""
    kinds = (unicodedata.category(c) for c in name)
    return 0 < len(name.encode()) <= 1024 and all(k.startswith(_IN_TABLE_NAMES) for k in kinds)


def require_names(table: Table) -> None:
    """Raise Mismatch for a name that BigQuery does not allow. Nothing is renamed in silence."""
    sql.require_distinct(table)
    allowed = "letters, numbers, underscores, dashes and spaces"
    if not may_name_a_table(table.name):
        raise Mismatch(
            f"BigQuery allows no table with the name {table.name!r}",
            column="",
            ours=table.name,
            theirs=allowed,
            hint=f"choose another name or prefix: {allowed}",
        )
    for column in table.columns:
        if not _COLUMN.fullmatch(column.name) or column.name.lower().startswith(_RESERVED):
            raise Mismatch(
                f"BigQuery allows no column with the name {column.name!r} (in table {table.name})",
                column=column.name,
                ours=column.name,
                theirs="letters, numbers and underscores",
                hint="rename it: a column begins with a letter or underscore and holds letters, numbers, underscores",
            )


def definitions(columns: Iterable[Column], *, between: str = ", ") -> str:
    return between.join(f"{quoted(c.name)} {BIGQUERY[c.type].name}" for c in columns)


def create_table(table: Table, name: str) -> str:
    """Keyed tables are clustered by the seq: a proof of delivery then reads only the stretch it compares."""
    cluster = f"\nCLUSTER BY {quoted(SEQ)}" if table.key else ""
    columns = definitions(table.columns, between=",\n    ")
    return f"CREATE TABLE IF NOT EXISTS {name} (\n    {columns}\n){cluster}"


def create_receipts(name: str) -> str:
    return create_table(Table(RECEIPTS, sql.RECEIPT_COLUMNS), name)


def add_columns(name: str, columns: Iterable[Column]) -> str:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {definitions([c])}" for c in columns)
    return f"ALTER TABLE {name} {added}"


def take(batch: Batch, target: str, receipts: str, staged: Sequence[str]) -> str:
    """The script that takes over what is staged, in one transaction with the receipt. Its row says what is there.

    It asks for the receipt itself, inside the transaction: an error that was told of a script may have come after its
    COMMIT. Parameters: `batch_id`, `table_name`.
    """
    table = batch.table
    after, upto = ("NULL" if s is None else str(s) for s in (batch.seqs.after, batch.seqs.upto))
    statements = [
        f"INSERT INTO {receipts} ({_names(c.name for c in sql.RECEIPT_COLUMNS)}) "
        f"VALUES (@batch_id, @table_name, {after}, {upto}, {batch.rows}, CURRENT_TIMESTAMP())"
    ]
    if batch.replaces is not None:
        statements.append(f"DELETE FROM {target} AS t WHERE {in_range(batch.replaces)}")
    if staged:
        columns = [c.name for c in table.columns]
        rows = " UNION ALL ".join(f"SELECT * FROM {name}" for name in staged)
        statements += _upsert(batch, target, rows) if table.key else [_append(target, columns, rows)]
    inner = "".join(f"    {s};\n" for s in statements)
    return (
        "DECLARE is_new BOOL DEFAULT FALSE;\n"
        "BEGIN TRANSACTION;\n"
        f"SET is_new = NOT EXISTS (SELECT 1 FROM {receipts} WHERE batch_id = @batch_id);\n"
        f"IF is_new THEN\n{inner}END IF;\n"
        "COMMIT TRANSACTION;\n"
        f"SELECT is_new, {RECEIPT} FROM {receipts} WHERE batch_id = @batch_id;"
    )


def _upsert(batch: Batch, target: str, rows: str) -> list[str]:
    """Remove what is older than what is staged, then add the newest of each key, unless a newer one is there."""
    keys = [quoted(k) for k in batch.table.key]
    columns = [c.name for c in batch.table.columns]
    kept = f"s.{quoted(DELETED)} IS NOT TRUE"
    if batch.adds_only:
        return [_append(target, columns, rows, f"WHERE {kept}")]
    seq = quoted(SEQ)
    matches = " AND ".join(f"t.{k} = s.{k}" for k in keys)
    older = matches
    if batch.replaces is None:
        older += f" AND (t.{seq} IS NULL OR t.{seq} <= s.{seq})"
    newest = (
        f"SELECT * FROM ({rows}) WHERE TRUE "
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {', '.join(keys)} ORDER BY {seq} DESC) = 1"
    )
    newer_there = f"EXISTS (SELECT 1 FROM {target} AS t WHERE {matches})"
    return [
        f"DELETE FROM {target} AS t WHERE EXISTS (SELECT 1 FROM ({rows}) AS s WHERE {older})",
        _append(target, columns, newest, f"WHERE {kept} AND NOT {newer_there}"),
    ]


def _append(target: str, columns: Sequence[str], rows: str, where: str = "") -> str:
    return (
        f"INSERT INTO {target} ({_names(columns)}) SELECT {_names(columns, of='s')} FROM ({rows}) AS s {where}".strip()
    )


def _names(columns: Iterable[str], *, of: str = "") -> str:
    return ", ".join(f"{of}.{quoted(c)}" if of else quoted(c) for c in columns)


def in_range(seqs: SeqRange) -> str:
    return sql.in_range(seqs).replace('"', "`")


def row_digest(columns: Iterable[Column]) -> str:
    """BigQuery's spelling of `isthmus.duck.row_digest`."""
    parts = ", CHR(31), ".join(f"IFNULL(CONCAT('=', {_canonical(c)}), '')" for c in columns)
    return f"CAST(CONCAT('0x', SUBSTR(TO_HEX(MD5(CONCAT({parts}))), 1, 15)) AS INT64)"


def _canonical(column: Column) -> str:
    name = quoted(column.name)
    match column.type:
        case Type.TEXT | Type.JSON:
            return name
        case Type.TIMESTAMP:
            return f"CAST(UNIX_MICROS({name}) AS STRING)"
        case Type.DOUBLE:
            return f"FORMAT('%.14e', {name} + 0.0)"
        case Type.BIGINT:
            return f"CAST({name} AS STRING)"
        case Type.BOOLEAN:
            return f"CASE {name} WHEN TRUE THEN '1' WHEN FALSE THEN '0' END"


def total(number: str) -> str:
    """The sum of 64-bit numbers: as INT64 it would overflow."""
    return f"IFNULL(SUM(CAST({number} AS NUMERIC)), 0)"


# Reading

_AS_TEXT = {
    "TIME": "CAST({} AS STRING)",
    "BIGNUMERIC": "CAST({} AS STRING)",
    "INTERVAL": "CAST({} AS STRING)",
    "GEOGRAPHY": "ST_ASTEXT({})",
}
PLAIN = frozenset({"STRING", "BYTES", "INT64", "FLOAT64", "BOOL", "DATE", "TIMESTAMP", "DATETIME", "NUMERIC"})
"""The types that have an Arrow type of their own. All others come as text: as they are written, or as JSON."""


_ARROW = {
    "BYTES": pa.binary(),
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "BOOL": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "DATETIME": pa.timestamp("us"),
    "NUMERIC": pa.decimal128(38, 9),
}


def arrow_schema(theirs: Mapping[str, str]) -> pa.Schema:
    """The Arrow types in which `plain_columns` come."""
    return pa.schema([pa.field(name, _ARROW.get(_bare(kind), pa.string())) for name, kind in theirs.items()])


def _bare(kind: str) -> str:
    return kind.partition("(")[0]


def all_plain(theirs: Mapping[str, str]) -> bool:
    return all(_bare(kind) in PLAIN for kind in theirs.values())


def plain_columns(theirs: Mapping[str, str]) -> str:
    """The select list over an origin `q` after which every column is of a plain type."""
    return ", ".join(_plain(name, kind) for name, kind in theirs.items())


def _plain(name: str, kind: str) -> str:
    column = f"q.{quoted(name)}"
    if _bare(kind) in PLAIN:
        return column
    if _bare(kind) in _AS_TEXT:
        return f"{_AS_TEXT[_bare(kind)].format(column)} AS {quoted(name)}"
    return f"IF({column} IS NULL, NULL, TO_JSON_STRING({column})) AS {quoted(name)}"


def in_window(window: Window | None, theirs: str) -> str:
    """The condition of a window over a changed-at column `q.…` of that type; without a zone it is taken as UTC."""
    if window is None:
        return "TRUE"
    column = f"q.{quoted(window.changed_at)}"
    if window.nulls:
        return f"{column} IS NULL"  # no time before the year 1 can be in a column
    bounds = []
    if window.start is not None:
        bounds.append(f"{column} >= {_moment(window.start, theirs, up=True)}")
    if window.end is not None:
        bounds.append(f"{column} <= {_moment(window.end, theirs, up=False)}")
    return " AND ".join(bounds) or "TRUE"


def _moment(moment: datetime, theirs: str, *, up: bool) -> str:
    """A literal of the column's own type, so that partitions and blocks can be passed over."""
    naive = moment.astimezone(UTC).replace(tzinfo=None)
    if theirs == "DATE":
        day = naive.date()
        if up and naive.time() != time() and day < datetime.max.date():
            day += timedelta(days=1)
        return f"DATE '{day.isoformat()}'"
    text = naive.isoformat(sep=" ")
    return f"DATETIME '{text}'" if theirs == "DATETIME" else f"TIMESTAMP '{text}+00'"


def in_order(window: Window | None) -> str:
    if window is None:
        return ""
    columns = [window.changed_at, *([window.key] if window.key else [])]
    return " ORDER BY " + ", ".join(f"q.{quoted(c)}" for c in columns)


def count(window: Window, origin: str, theirs: Mapping[str, str], relation: Relation) -> str:
    """Asks for what `Count` holds of a window. Raises Missing or Mismatch if its columns cannot bound anything."""
    kind = sql.window_type(window, theirs, relation)
    moment = f"q.{quoted(window.changed_at)}"
    instant = "{}" if kind == "TIMESTAMP" else "TIMESTAMP({})"
    texts = ", '|', ".join(f"TO_JSON_STRING(q.{quoted(c)})" for c in (window.changed_at, window.key) if c)
    number = f"CAST(CONCAT('0x', SUBSTR(TO_HEX(MD5(CONCAT({texts}))), 1, 15)) AS INT64)"
    return (
        f"SELECT COUNT(*), UNIX_MICROS({instant.format(f'MIN({moment})')}), "
        f"UNIX_MICROS({instant.format(f'MAX({moment})')}), {total(number)}, UNIX_MICROS(CURRENT_TIMESTAMP()) "
        f"FROM {origin} WHERE {in_window(window, kind)}"
    )
