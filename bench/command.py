"""`isthmus` with two more kinds of warehouse, for what cannot be measured with one on this very machine:

* `nowhere` takes everything and keeps nothing. A load takes as long as it says.
* `waiting` is PostgreSQL's connection with nothing behind it: a load waits as long as its rows would take elsewhere.

BENCH_GROUP puts the process into a control group (`shares.py`), BENCH_CHUNK_ROWS makes smaller chunks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import shares

from isthmus.exports import plan
from isthmus.model.checks import Check
from isthmus.model.table import Batch, Receipt, SeqRange, Table, Tally
from isthmus.warehouses import kinds
from isthmus.warehouses.protocol import Traits, setting


class Nowhere:
    """Open, and nothing in it."""

    def __init__(self, chunk_ms: int, row_ns: int) -> None:
        self._chunk_s, self._row_s = chunk_ms / 1e3, row_ns / 1e9

    def create(self, table: Table) -> None: ...

    def load(self, batch: Batch) -> Receipt:
        time.sleep(self._chunk_s + self._row_s * batch.rows)
        return Receipt(batch.batch_id, batch.table.name, batch.rows, batch.seqs, datetime.now(UTC), repeated=False)

    def receipt(self, batch_id: str) -> Receipt | None:
        return None

    def reached(self, table: Table) -> int | None:
        return None

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        return iter(())

    def close(self) -> None: ...


@dataclass(frozen=True)
class NowhereConfig:
    """A load takes `chunk_ms`, and `row_ns` for each of its rows."""

    kind: ClassVar[str] = "nowhere"
    traits: ClassVar[Traits] = Traits("Nowhere", True, False, 4)

    chunk_ms: int = setting("ms", help="milliseconds a load takes", default=0)
    row_ns: int = setting("ns", help="nanoseconds a row takes", default=0)

    def setup_script(self, tables: Sequence[Table], **_: object) -> str:
        return ""

    def check(self) -> Iterator[Check]:
        return iter(())

    def open(self) -> Any:
        return Nowhere(self.chunk_ms, self.row_ns)


def prepare() -> None:
    kinds.KINDS["nowhere"] = NowhereConfig  # type: ignore[index]
    rows = os.environ.get("BENCH_CHUNK_ROWS")
    if rows:
        plan.history.__kwdefaults__["limit"] = int(rows)  # type: ignore[index]
    group = os.environ.get("BENCH_GROUP")
    if group:
        shares.join(group)


if __name__ == "__main__":
    from isthmus.cli.main import main

    prepare()
    main()
