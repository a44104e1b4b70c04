"""Importing a relation that does not say when its rows were changed: every run reads all of it and compares.

What is kept of each row (`store.known`) moves in the transaction that lands it. So a run that is cut off begins anew
and finds what has landed unchanged; which rows are gone is decided only at the end of a reading that met all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa

from isthmus.imports.files import BATCH_ROWS, gathered
from isthmus.imports.relation import (
    columns_of,
    in_chunks,
    key_of,
    naming,
    numbered,
    relation_of,
    require_some,
    sync_of,
    yields_to_older,
)
from isthmus.ledger.database import Ledger
from isthmus.model.errors import InvalidInput, WarehouseError
from isthmus.model.intake import Counts, IncomingColumn
from isthmus.model.mapping import bind
from isthmus.model.work import Chunk, Intake, Run, Sync
from isthmus.runs.attempt import Done, Keep, Still
from isthmus.store.known import Known, Reading, how_many
from isthmus.store.lake import Lake, Write
from isthmus.store.landing import Landing, Progress, keep_progress, progress
from isthmus.warehouses.protocol import Config, Relation, Warehouse, knock

GUARD_ROWS = 100
"""So many rows may be gone whatever part of them all that is."""


@dataclass(frozen=True)
class Found:
    """What comparing found: rows that were not there before, that say something else, that are gone (and how many
    events went with them, or profiles lost a value), and that are as they were."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    removed: int = 0
    unchanged: int = 0


@dataclass(frozen=True)
class State:
    """What is kept with the progress of a comparison: how many rows the last whole reading left known (None: there was
    none), what was found, and of which run that is while it is under way."""

    known: int | None = None
    found: Found = field(default_factory=Found)
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, before: Progress | None) -> State:
        values = (before and before.cursor) or {}
        return cls(values.get("known"), Found(**values.get("found", {})), values.get("run_id", ""))


@dataclass(frozen=True)
class Comparison:
    """All that a run of such an import needs. A `runs.attempt.Work`."""

    lake: Lake
    ledger: Ledger
    config: Config
    now: Callable[[], datetime]
    phone_region: str | None = None
    leaves_easily: ClassVar[bool] = False  # it would read from the first row again

    def plan(self, run: Run, keep: Keep) -> Run:
        """Chunks of all rows; one at least while rows are known, for they may all be gone."""
        sync, intake = sync_of(self.ledger, run)
        moment = self.now()
        warehouse = self.config.open()
        try:
            relation, columns, _ = described(warehouse, self.config, intake)
            yields_to_older(self.ledger, warehouse, self.config, sync, columns)
            with naming(relation):
                rows = warehouse.count(relation).rows
        finally:
            warehouse.close()
        first = State.of(progress(self.lake, key_of(sync))).known is None
        least = min(1, how_many(self.lake, known_of(sync, intake)))
        count = max(-(-rows // BATCH_ROWS), least)
        planned = in_chunks(run, sync, intake, moment, rows, first=first, count=count)
        with self.ledger.transaction() as tx:
            return keep(tx, planned, sync.generation, 1)

    def can_go_on(self, run: Run) -> bool:
        """Always: the relation is read anew."""
        return True

    def outcome(self, run: Run) -> dict[str, Any]:
        """What became of the rows. Raises InvalidInput if every one of them was rejected: that is no success."""
        if not run.chunks:
            return {}
        sync, _ = sync_of(self.ledger, run)
        reached = progress(self.lake, key_of(sync))
        counts = reached.counts if reached else Counts()
        require_some(counts, sync)
        return counts.as_dict() | asdict(State.of(reached).found)

    def knock(self) -> WarehouseError | None:
        return knock(self.config)

    @contextmanager
    def open(self, run: Run) -> Iterator[Callable[[Chunk, Still], Done]]:
        """The relation, read from its first row; the last chunk takes all that are left, and decides what is gone."""
        sync, intake = sync_of(self.ledger, run)
        warehouse = self.config.open()
        try:
            reading = _Reading(self, run, sync, intake, warehouse)
            last = len(run.chunks) - 1
            try:
                yield lambda chunk, still: reading.land(None if chunk.number == last else chunk.rows, still)
            finally:
                reading.close()
        finally:
            warehouse.close()


def known_of(sync: Sync, intake: Intake) -> Known:
    """The rows of an import: of this connection and kind of data, told by this key."""
    what = json.dumps([sync.connection_id, intake.data, list(intake.key)])
    gives = intake.mapping if intake.data == "profiles" and intake.deletes == "remove" else None
    return Known(f"{sync.sync_id} {hashlib.sha256(what.encode()).hexdigest()[:16]}", sync.connection_id, gives)


def described(
    warehouse: Warehouse, config: Config, intake: Intake
) -> tuple[Relation, tuple[IncomingColumn, ...], tuple[str, ...]]:
    """The relation, its columns, and the names of those by which a row says something to the mapping.

    Raises Missing if the relation is not there, InvalidInput for a column that is not.
    """
    with naming(relation_of(config, intake)) as relation:
        columns = columns_of(warehouse.schema(relation), intake)
    names = [c.name for c in columns]
    mapping = bind(intake.mapping, names, where=intake.what)
    require_key(names, intake.key, intake.what)
    said = [column for _, column in [*mapping.used(), *mapping.property_columns(names)]]
    return relation, columns, tuple(dict.fromkeys(said))


def require_key(columns: Sequence[str], key: Sequence[str], where: str) -> None:
    """That the columns of a key are there. Raises InvalidInput."""
    for column in key:
        if column not in columns:
            raise InvalidInput(
                f"{where} has no column {column!r}, which the import names as its key",
                hint=f"its columns are: {', '.join(map(repr, columns[:20]))}" + (" …" if len(columns) > 20 else ""),
            )


class _Reading:
    """One attempt: the relation from its first row on, held against what is known, and what is new landed."""

    def __init__(self, work: Comparison, run: Run, sync: Sync, intake: Intake, warehouse: Warehouse) -> None:
        self._lake, self._sync, self._intake = work.lake, sync, intake
        relation, columns, said = described(warehouse, work.config, intake)
        self._before = progress(work.lake, key_of(sync))
        state = State.of(self._before)
        going = self._before is not None and not self._before.done and state.run_id == run.run_id
        self._state = state if going else State(state.known, run_id=run.run_id)
        self._so_far = self._before if going and self._before else Progress(0, False, Counts())
        self._rejected_before = self._so_far.counts.rejected
        self._read = self._still_rejected = 0
        self._done_before = sum(c.rows for c in run.chunks if c.done)
        self._known = known_of(sync, intake)
        self._columns = columns
        self._compared = Reading(
            work.lake, self._known, columns, key=intake.key, said=said, version=str(sync.generation)
        )
        self._tables = _read(warehouse, relation)
        self._landing = Landing(
            work.lake,
            intake.mapping,
            columns,
            lines=False,
            label=sync.name,
            key=key_of(sync),
            phone_region=work.phone_region,
            numbered=False,
            connection=sync.connection_id,
            is_history=self._state.known is None,
            follows=self._before,
            known=self._known,
            key_columns=intake.key,
        )

    def land(self, rows: int | None, still: Still) -> Done:
        """Take as many rows, or a few more, beyond those that an earlier attempt has counted; None: all that are left,
        and with them the end of the reading."""
        counted = size = 0
        while rows is None or counted < rows:
            table = next(self._tables, None)
            if table is None:
                break
            still()
            before = max(self._read, self._done_before)
            self._take(numbered(table, self._columns, self._read + 1))
            self._read += table.num_rows
            counted += max(0, self._read - before)
            size += table.nbytes
        if rows is None:
            still()
            self._finish()
        return Done(counted, size)

    def close(self) -> None:
        self._compared.close()

    def _take(self, table: pa.Table) -> None:
        looked = self._compared.look(table)
        if looked.rows.num_rows:
            found = self._state.found
            found = replace(found, inserted=found.inserted + looked.inserted, updated=found.updated + looked.updated)
            self._state = replace(self._state, found=found)
            self._so_far = self._landing.land(looked.rows, self._so_far, done=False, cursor=self._state.as_dict())
        self._compared.saw()
        self._still_rejected += looked.still_rejected

    def _finish(self) -> None:
        """All rows were met: those that are known and were not are gone."""
        missing = self._compared.missing()
        remove = self._intake.deletes == "remove"
        if remove:
            self._require_plausible(missing)
        counts = self._counts()

        def do(write: Write) -> None:
            self._landing.require_followed(write)
            names = [c.name for c in self._columns]
            removed = self._known.forget(write, label=self._sync.name, remove=remove, columns=names)
            self._known.forget_former(write)
            unchanged = max(0, self._read - self._state.found.inserted - self._state.found.updated)
            found = replace(self._state.found, deleted=missing, removed=removed, unchanged=unchanged)
            state = State(how_many(self._lake, self._known), found)
            reached = Progress(self._read, True, counts, state.as_dict())
            if reached != self._before:
                keep_progress(write, key_of(self._sync), reached)

        self._lake.write(do)

    def _counts(self) -> Counts:
        """Of the whole reading, and what earlier attempts of this run had landed of it: rows that are as they were are
        repeated, or rejected as before."""
        counts = self._so_far.counts
        rejected = counts.rejected - self._rejected_before + self._still_rejected
        read = max(self._read, counts.landed + rejected)
        return replace(counts, read=read, rejected=rejected, repeated=read - counts.landed - rejected)

    def _require_plausible(self, missing: int) -> None:
        known = self._compared.known() if self._state.known is None else self._state.known
        limit = self._intake.deletes_limit
        if missing > GUARD_ROWS and missing * 100 > limit * known and limit < 100:
            raise InvalidInput(
                f"{missing:,} of {known:,} rows of {self._intake.what} are gone, more than {limit} %: none was removed",
                hint="if the table was just being filled anew, run the import again; if those rows are meant to be "
                "gone, set deletes_limit: 100 in the apply file, apply it, and run it again",
            )


def _read(warehouse: Warehouse, relation: Relation) -> Iterator[pa.Table]:
    with naming(relation):
        yield from gathered(warehouse.read(relation))
