"""The tables we own in a warehouse, and how a batch of their rows looks on the way there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import pyarrow as pa

SEQ = "_isthmus_seq"
"""Technical column of every keyed table: the store's commit number of the row. The newest version of a row wins by it,
and proof of delivery groups by it."""

DELETED = "_deleted"
"""Technical column of a *batch* only, never of a table: true where the row is to be removed."""

RECEIPTS = "_isthmus_receipts"
"""The table in which a warehouse keeps our receipts."""


class Type(StrEnum):
    """What a column holds, independent of any warehouse. Each connector maps these to its own types."""

    TEXT = "text"
    JSON = "json"  # a JSON object or array as text; kept byte for byte where the warehouse can
    TIMESTAMP = "timestamp"  # an instant, UTC, microseconds
    DOUBLE = "double"  # IEEE 754, always finite
    BIGINT = "bigint"
    BOOLEAN = "boolean"


_ARROW: dict[Type, pa.DataType] = {
    Type.TEXT: pa.string(),
    Type.JSON: pa.string(),
    Type.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    Type.DOUBLE: pa.float64(),
    Type.BIGINT: pa.int64(),
    Type.BOOLEAN: pa.bool_(),
}


@dataclass(frozen=True)
class Column:
    """One column of a table: its name as we write it (connectors may fold case) and its type."""

    name: str
    type: Type

    @property
    def arrow(self) -> pa.DataType:
        return _ARROW[self.type]


@dataclass(frozen=True)
class Table:
    """A table we own in somebody's warehouse.

    With a `key`, loads upsert by it and the highest `_isthmus_seq` wins; the table then has that column. Without one,
    loads append.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.arrow) for c in self.columns])

    @property
    def batch_schema(self) -> pa.Schema:
        """The schema of a batch's Parquet files: a keyed table's batch also says which rows are deleted."""
        return self.schema.append(pa.field(DELETED, pa.bool_())) if self.key else self.schema

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)


@dataclass(frozen=True)
class SeqRange:
    """A stretch of store commits: `after` is outside, `upto` is inside. None means open at that end."""

    after: int | None
    upto: int | None

    def __str__(self) -> str:
        return f"({'…' if self.after is None else self.after}, {'…' if self.upto is None else self.upto}]"


@dataclass(frozen=True)
class Batch:
    """A bounded, immutable set of Parquet files for one table, loaded whole or not at all.

    `batch_id` is stable: the same work has the same id for ever. `rows` counts all rows in the files, deleted ones too.
    `adds_only` is a promise that no row's key was ever sent to this table before and that keys are unique inside the
    batch, so a connector may skip looking for older versions. `replaces` asks, for repair, to first remove every row of
    the table whose `_isthmus_seq` lies in that range (rows without one too, if the range is open below), and then to
    take the batch's rows whatever version is there.
    """

    batch_id: str
    table: Table
    files: tuple[Path, ...]
    rows: int
    seqs: SeqRange
    adds_only: bool = False
    replaces: SeqRange | None = None


@dataclass(frozen=True)
class Receipt:
    """What the warehouse holds about a batch: it is in. `repeated` says that this load found it there already."""

    batch_id: str
    table: str
    rows: int
    seqs: SeqRange
    loaded_at: datetime
    repeated: bool


@dataclass(frozen=True)
class Tally:
    """Count and order-independent checksum of the rows of a table with one `_isthmus_seq` (None: rows without one).

    The checksum is the sum of a 60-bit digest per row over every column of the table; how a row is written for the
    digest is defined in `isthmus.duck.row_digest` and must come out the same in every warehouse's own SQL.
    """

    seq: int | None
    rows: int
    checksum: int
