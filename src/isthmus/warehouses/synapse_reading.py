"""What is said to read what a customer exposes, and how its types come out: plain Arrow ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from isthmus.duck import identifier
from isthmus.warehouses import sql
from isthmus.warehouses.protocol import Relation, Window
from isthmus.warehouses.synapse_sql import hashed, microseconds, text

_ROWS_AT_ONCE = 32_768
_LONG_ROWS_AT_ONCE = 2_048


def relations(schema: str) -> str:
    """Asks for the tables and views of a schema: what its asker has no right on is not shown to it."""
    return (
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM INFORMATION_SCHEMA.TABLES "
        f"WHERE TABLE_SCHEMA = {text(schema)}"
    )


def origin(relation: Relation) -> str:
    if relation.kind == "query":
        # On lines of its own: the query may end with a comment.
        return f"(\n{relation.name.rstrip().rstrip(';')}\n) AS q"
    return f"{identifier(relation.schema)}.{identifier(relation.name)} AS q"


def time_names(found: pa.Schema) -> dict[str, str]:
    """The columns of a relation with the names `sql.window_type` knows times by."""

    def name(kind: pa.DataType) -> str:
        if pa.types.is_timestamp(kind):
            return "timestamp with time zone" if kind.tz else "timestamp"
        return "date" if pa.types.is_date(kind) else str(kind)

    return {field.name: name(field.type) for field in found}


def in_window(window: Window | None, theirs: str) -> str:
    """The condition of a window over a changed-at column, to the microsecond: a value may have a digit more, which
    neither side of ours can hold, so that the end is the beginning of the next microsecond."""
    if window is None:
        return "1 = 1"
    column = f"q.{identifier(window.changed_at)}"
    if window.nulls:  # no time of T-SQL is before the year 1
        return f"{column} IS NULL"
    bounds = []
    if window.start is not None:
        bounds.append(f"{column} >= {_moment(window.start, theirs)}")
    if window.end is not None and window.end < datetime.max.replace(tzinfo=UTC):
        bounds.append(f"{column} < {_moment(window.end + timedelta(microseconds=1), theirs)}")
    if window.end is not None and not bounds:
        bounds.append(f"{column} IS NOT NULL")
    return " AND ".join(bounds) or "1 = 1"


def _moment(moment: datetime, theirs: str) -> str:
    plain = moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    if theirs == "timestamp with time zone":
        return f"CAST('{plain}+00:00' AS DATETIMEOFFSET(6))"
    return f"CAST('{plain}' AS DATETIME2(6))"


def in_order(window: Window | None) -> str:
    if window is None:
        return ""
    chosen = [window.changed_at, *([window.key] if window.key else [])]
    return f" ORDER BY {sql.names(chosen, of='q')}"


def read(relation: Relation, where: str, window: Window | None, limit: int | None) -> str:
    top = "" if limit is None else f"TOP ({int(limit)}) "
    return f"SELECT {top}* FROM {origin(relation)} WHERE {where}{in_order(window)}"


def count(relation: Relation, where: str, window: Window, found: pa.Schema) -> str:
    moment = f"q.{identifier(window.changed_at)}"
    parts = [_written(c, found.field(c).type) for c in (window.changed_at, window.key) if c]
    line = f"CONCAT(CAST(N'' AS NVARCHAR(MAX)), {', NCHAR(31), '.join(parts)})"
    return (
        f"SELECT COUNT_BIG(*), {microseconds(f'MIN({moment})')}, {microseconds(f'MAX({moment})')}, "
        f"SUM(CAST(CONVERT(BIGINT, SUBSTRING({hashed(line)}, 1, 7)) AS DECIMAL(38, 0))), "
        f"{microseconds('SYSUTCDATETIME()')} FROM {origin(relation)} WHERE {where}"
    )


def _written(name: str, kind: pa.DataType) -> str:
    """A value as text without loss, so that another value has another text."""
    column = f"q.{identifier(name)}"
    if pa.types.is_temporal(kind):
        return f"CONVERT(NVARCHAR(50), {column}, 121)"
    if pa.types.is_floating(kind):
        return f"CONVERT(NVARCHAR(50), {column}, 3)"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return f"CONVERT(NVARCHAR(MAX), {column}, 1)"
    return column


# Arrow


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type we give for one of the driver's: UTC is called so, and texts are not \"large\"."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) else kind


def plain_schema(theirs: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in theirs])


def rows_at_once(found: pa.Schema) -> int:
    """How many rows are fetched together: fewer where one may be megabytes long."""
    long = any(pa.types.is_string(f.type) or pa.types.is_binary(f.type) for f in found)
    return _LONG_ROWS_AT_ONCE if long else _ROWS_AT_ONCE


def plain_rows(rows: pa.RecordBatch, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    if rows.num_rows:
        columns = [c.cast(f.type, safe=False) for c, f in zip(rows.columns, wanted, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=wanted)
