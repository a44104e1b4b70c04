"""What a connector promises. Two interfaces: a *config* value, and a warehouse that is *open*.

All calls block, are made from one thread, and raise only `WarehouseError`s. A connector neither retries, sleeps, logs
nor reads the environment: the caller does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from isthmus.model.checks import Check
from isthmus.model.errors import WarehouseError
from isthmus.model.table import Batch, Receipt, SeqRange, Table, Tally


@dataclass(frozen=True)
class Traits:
    """What differs between kinds and a caller must know, as data."""

    title: str  # as a person writes it: "Amazon Redshift"
    loads: bool
    reads: bool
    loads_at_once: int = 4  # chunks, unless a connection says otherwise; 1: it never takes more
    default_import_schema: str = "KLAVIYO_IMPORT_FROM_DWH"
    default_temp_schema: str = "KLAVIYO_TMP"


class Direction(StrEnum):
    """What a connection is for: a set-up script gives the rights of that, and no others."""

    BOTH = "both"
    EXPORT = "export"
    IMPORT = "import"

    @property
    def exports(self) -> bool:
        return self is not Direction.IMPORT

    @property
    def imports(self) -> bool:
        return self is not Direction.EXPORT


@dataclass(frozen=True)
class Relation:
    """A table, view or query in a warehouse that we may read. `kind` is "table", "view" or "query"."""

    schema: str
    name: str
    kind: str = "table"

    def __str__(self) -> str:
        if self.kind == "query":
            return "the query"
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class Window:
    """A stretch of a relation by one of its columns, both ends included, in the order (changed_at, key).

    With `nulls` it is the rows that no stretch holds instead: whose changed-at is NULL, or before the year 1.
    """

    changed_at: str
    key: str | None
    start: datetime | None
    end: datetime | None
    nulls: bool = False


@dataclass(frozen=True)
class Count:
    """How many rows and, of a window, the lowest and highest changed-at among them.

    `checksum` is of changed-at and key, whatever the order of the rows: equal to an earlier one of the same window
    means that no row was added, removed or changed since. `now` is the warehouse's own time. Both are None without a
    window.
    """

    rows: int
    first: datetime | None = None
    last: datetime | None = None
    checksum: int | None = None
    now: datetime | None = None


def setting(
    label: str,
    *,
    help: str,
    example: str = "",
    secret: bool = False,
    default: Any = ...,
    advanced: bool = False,
    incidental: bool = False,
) -> Any:
    """One field of a config, with all that a form, a prompt, YAML validation and the documentation need.

    An `incidental` one says how we get in, or by what way rows travel, not to which place: when it changes, what was
    delivered is still there, and syncs go on. Secrets are always so.
    """
    metadata = {"label": label, "help": help, "example": example, "secret": secret, "advanced": advanced}
    metadata["incidental"] = incidental
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


class Warehouse(Protocol):
    """A customer's store, open for work."""

    def create(self, table: Table) -> None:
        """Make the table, or add its missing columns as nullable ones, and the receipts table if it is not there.

        Never drops, renames or narrows. A column that exists with another type raises `Mismatch`. Calling twice is
        safe, also from two processes at once.
        """
        ...

    def load(self, batch: Batch) -> Receipt:
        """Make all rows of the batch visible, or none, and write its receipt in the same transaction.

        The same `batch_id` again changes nothing and returns the first receipt with `repeated=True`. A keyed table
        upserts: per key the row with the highest `_isthmus_seq` wins, inside the batch and against what is there; a
        row with `_deleted` removes its key unless what is there is newer. A table without a key appends. Never cuts a
        value: one that cannot be held raises `Rejected` with row and column. After any error nothing of the batch is
        there, or all of it with its receipt (the outcome was unknown): call again to find out.
        """
        ...

    def receipt(self, batch_id: str) -> Receipt | None:
        """The receipt of a batch, if the warehouse has one."""
        ...

    def reached(self, table: Table) -> int | None:
        """The highest end of a range among the receipts of this table; None without any."""
        ...

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        """Counts and checksums per `_isthmus_seq` inside the range, computed by the warehouse's own SQL.

        In ascending order, rows without a seq first (if the range is open below). See `Tally`.
        """
        ...

    def relations(self) -> Iterator[Relation]:
        """Every table and view we may read in the import schema, by name."""
        ...

    def schema(self, relation: Relation) -> pa.Schema:
        """The columns of a relation. Raises `Missing` if it is not there."""
        ...

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows, streamed: never the whole relation in memory. With a window: inside it, ordered by it."""
        ...

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        """How many rows `read` would return, by the warehouse's own count."""
        ...

    def close(self) -> None:
        """Give everything back. Calling twice is safe."""
        ...


class Config(Protocol):
    """The saved fields of one connection: a frozen dataclass a kind, fields made by `setting`. Touches no network."""

    kind: ClassVar[str]
    traits: ClassVar[Traits]

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """What an administrator runs once: least privilege, safe to run twice, no secret in it, never translated.

        It makes both schemas, the role, the user, the grants (on what is there and what will be, tables and views), the
        tables, and the network rule that lets the addresses `egress` in, or says where that is done. With `EXPORT` it
        gives no right to read the import schema; with `IMPORT` it makes no tables and gives no right to load.
        """
        ...

    def check(self) -> Iterator[Check]:
        """Named questions in order, each answered as it comes. A "no" is an answer, never an exception."""
        ...

    def open(self) -> Warehouse:
        """Connect. Raises `Unreachable`, `Denied` or `Missing`."""
        ...


def knock(config: Config) -> WarehouseError | None:
    """Sign in and leave again: what kept us out, or None."""
    try:
        config.open().close()
    except WarehouseError as e:
        return e
    return None
