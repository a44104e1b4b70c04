"""How columns of Snowflake are read: which expression makes each a plain Arrow type, and which one that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from isthmus.duck import identifier
from isthmus.model.errors import Mismatch, Missing
from isthmus.warehouses import snowflake_sql, sql
from isthmus.warehouses.protocol import Relation, Window

BATCH_ROWS = 65_536

# The driver's numbers for Snowflake's types. They are part of the wire's protocol; its own table moved with version 5.
_KINDS = {
    0: "NUMBER",
    1: "FLOAT",
    2: "VARCHAR",
    3: "DATE",
    4: "TIMESTAMP_NTZ",
    5: "VARIANT",
    6: "TIMESTAMP_LTZ",
    7: "TIMESTAMP_TZ",
    8: "TIMESTAMP_NTZ",
    9: "OBJECT",
    10: "ARRAY",
    11: "BINARY",
    12: "TIME",
    13: "BOOLEAN",
    14: "GEOGRAPHY",
    15: "GEOMETRY",
    16: "VECTOR",
    17: "MAP",
}


@dataclass(frozen=True)
class Found:
    """A column of a relation or query, as described without running it."""

    name: str
    kind: str
    precision: int = 38
    scale: int = 0

    @property
    def arrow(self) -> pa.DataType:
        """Times are UTC in microseconds; documents and what Arrow has no word for are text."""
        match self.kind:
            case "NUMBER":
                is_small = self.scale == 0 and self.precision <= 18
                return pa.int64() if is_small else pa.decimal128(38, self.scale)
            case "FLOAT":
                return pa.float64()
            case "DATE":
                return pa.date32()
            case "TIMESTAMP_NTZ":
                return pa.timestamp("us")
            case "TIMESTAMP_TZ" | "TIMESTAMP_LTZ":
                return pa.timestamp("us", tz="UTC")
            case "BINARY":
                return pa.binary()
            case "BOOLEAN":
                return pa.bool_()
        return pa.string()

    @property
    def expression(self) -> str:
        """The column of the origin `q`, so that it arrives as that type."""
        name = f"q.{identifier(self.name)}"
        match self.kind:
            case "NUMBER" | "FLOAT" | "VARCHAR" | "DATE" | "BINARY" | "BOOLEAN":
                return name
            case "TIMESTAMP_NTZ" | "TIMESTAMP_TZ" | "TIMESTAMP_LTZ":
                return f"{snowflake_sql.utc(name, self.kind)} AS {identifier(self.name)}"
            case "VARIANT" | "OBJECT" | "ARRAY" | "MAP":
                return f"TO_JSON(TO_VARIANT({name})) AS {identifier(self.name)}"
            case "GEOGRAPHY" | "GEOMETRY":
                return f"TO_JSON(ST_ASGEOJSON({name})) AS {identifier(self.name)}"
            case "TIME":
                return f"TO_VARCHAR({name}, 'HH24:MI:SS.FF6') AS {identifier(self.name)}"
        return f"{name}::VARCHAR AS {identifier(self.name)}"


def found(described: Sequence[Any]) -> list[Found]:
    """The columns of what the driver's `describe` said."""
    return [
        Found(d.name, _KINDS.get(d.type_code, "OTHER"), 38 if d.precision is None else d.precision, d.scale or 0)
        for d in described
    ]


def schema(columns: Sequence[Found]) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.arrow) for c in columns])


def resolved(window: Window, columns: Sequence[Found], relation: Relation) -> tuple[Window, str]:
    """The window with its columns' names as they are written there, and the kind of its changed-at column.

    Raises Missing or Mismatch if it bounds nothing.
    """
    theirs = {c.name: c.kind for c in columns}

    def name(given: str) -> str:
        return given if given in theirs else snowflake_sql.folded(given)

    for given in (window.changed_at, window.key):
        if given is not None and name(given) not in theirs:
            raise Missing(f"{relation} has no column {given}", hint=f"its columns are: {', '.join(theirs)}")
    key = None if window.key is None else name(window.key)
    there = Window(name(window.changed_at), key, window.start, window.end, window.nulls)
    try:
        return there, sql.window_type(there, theirs, relation)
    except Mismatch as e:
        e.column = window.changed_at
        raise


def batches(table: pa.Table, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A part of a result in the types that were promised: the driver sends the narrowest that hold its values."""
    yield from pa.table([_as(c, f.type) for c, f in zip(table.columns, wanted, strict=True)], schema=wanted).to_batches(
        max_chunksize=BATCH_ROWS
    )


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_timestamp(kind) and kind.tz and pa.types.is_timestamp(column.type) and column.type.tz is None:
        return column.cast(pa.timestamp("us")).cast(pa.int64()).cast(kind)  # it is UTC already
    return column if column.type == kind else column.cast(kind)
