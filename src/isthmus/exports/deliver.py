"""Delivering: what one run of an export does. A plan, then chunk by chunk: rows to a file, that to the warehouse."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import ClassVar

from isthmus.exports import plan
from isthmus.ledger import closing, lanes, syncs
from isthmus.ledger.database import Ledger
from isthmus.model.errors import InvalidInput, WarehouseError
from isthmus.model.table import Batch, SeqRange, Table
from isthmus.model.tables import EVENT, METRIC, PROFILE, named
from isthmus.model.work import Chunk, Run, RunKind, Scope, Selection, Sync
from isthmus.runs.attempt import Done, Keep, Still
from isthmus.store.changes import Changes
from isthmus.store.lake import Lake
from isthmus.warehouses.protocol import Config, Warehouse, knock


@dataclass(frozen=True)
class Delivery:
    """All that a run of an export needs: where from, where to, and what keeps account. A `runs.attempt.Work`.

    `lanes` is how many chunks of a history may be loaded at once there.
    """

    lake: Lake
    ledger: Ledger
    config: Config
    now: Callable[[], datetime]
    lanes: int = 1
    leaves_easily: ClassVar[bool] = True

    def plan(self, run: Run, keep: Keep) -> Run:
        """A plan over what changed since the watermark. It has no chunks if that is nothing; then the warehouse was not
        opened."""
        with self.ledger.reading() as tx:
            sync = syncs.by_id(tx, run.sync_id)
        return _planned(self, sync, run, keep)

    def can_go_on(self, run: Run) -> bool:
        """Whether the moment of the store that the run's chunks are made from is still kept."""
        return self.lake.has_snapshot(run.snapshot_id)

    def outcome(self, run: Run) -> dict[str, object]:
        """The ledger has it all: rows and bytes of each chunk."""
        return {}

    def knock(self) -> WarehouseError | None:
        return knock(self.config)

    @contextmanager
    def open(self, run: Run) -> Iterator[Callable[[Chunk, Still], Done]]:
        """The warehouse, open, with the tables made."""
        with self.ledger.reading() as tx:
            sync = syncs.by_id(tx, run.sync_id)
        folder = self.lake.spool / f"{run.run_id}.{token_hex(4)}"  # another lane, or one given up, may be at work here
        warehouse = self.config.open()
        try:
            for table in tables_of(sync.selection):
                warehouse.create(named(table, sync.selection.table_prefix))
            yield lambda chunk, still: _deliver_chunk(self, sync, run, chunk, warehouse, folder, still)
        finally:
            warehouse.close()
            shutil.rmtree(folder, ignore_errors=True)


def tables_of(selection: Selection) -> list[Table]:
    """The tables that a selection keeps, in the order in which they are delivered."""
    wanted = [METRIC] if selection.events else []
    wanted += [PROFILE] if selection.profiles else []
    return wanted + ([EVENT] if selection.events else [])


def changes_of(lake: Lake, snapshot_id: int, sync: Sync, scope: Scope) -> Changes:
    """What of the store an export carries. Events that were read from its own warehouse are no news there."""
    exclude = None if sync.selection.include_imported else sync.connection_id
    return Changes(lake, snapshot_id, sync.selection, scope, exclude_origin=exclude)


def _deliver_chunk(
    delivery: Delivery, sync: Sync, run: Run, chunk: Chunk, warehouse: Warehouse, folder: Path, still: Still
) -> Done:
    table = next(t for t in tables_of(sync.selection) if t.name == chunk.table)
    assert sync.scope is not None
    origin = changes_of(delivery.lake, run.snapshot_id, sync, sync.scope)
    file = folder / f"{chunk.number:06d}.parquet"
    seqs = SeqRange(chunk.seqs_after, chunk.seqs_upto)
    try:
        rows = origin.extract(table, seqs, file, deletes=chunk.part == "deletes")
        batch = Batch(
            batch_id=chunk.batch_id,
            table=named(table, sync.selection.table_prefix),
            files=(file,),
            rows=rows,
            seqs=seqs,
            adds_only=chunk.adds_only,
            replaces=SeqRange(chunk.replaces_after, chunk.replaces_upto) if chunk.replaces else None,
        )
        still()
        return Done(warehouse.load(batch).rows, file.stat().st_size)
    finally:
        file.unlink(missing_ok=True)


def _planned(delivery: Delivery, sync: Sync, run: Run, keep: Keep) -> Run:
    moment = delivery.now()  # taken first: everything up to it is in the snapshot
    snapshot = delivery.lake.snapshot()
    first = sync.scope is None
    if snapshot.seq < sync.watermark:
        raise InvalidInput(
            f"the store is older than what {sync.name!r} has delivered: it was put back or replaced",
            hint=f"to send everything again, in place of what is there: isthmus sync reactivate {sync.name}",
        )
    nothing = replace(
        run,
        kind=RunKind.HISTORICAL if sync.watermark == 0 else RunKind.PERIODIC,
        after=sync.watermark,
        upto=snapshot.seq,
        snapshot_id=snapshot.snapshot_id,
        snapshot_at=moment,
        planned_at=moment,
        chunks=(),
    )
    if not first and snapshot.seq == sync.watermark:
        with delivery.ledger.transaction() as tx:
            return keep(tx, nothing, sync.generation, 1)
    scope = sync.scope or Scope(plan.events_since(sync.selection.history, moment), snapshot.seq)
    origin = changes_of(delivery.lake, snapshot.snapshot_id, sync, scope)
    window = SeqRange(sync.watermark, snapshot.seq)
    historical = sync.watermark == 0
    tables = tables_of(sync.selection)
    commits = {t.name: [(c.seq, c.rows, c.older) for c in origin.commits(t, window)] for t in tables}
    deletions = {t.name: 0 if historical else origin.deletions(t, window) for t in tables}
    if historical or any(commits.values()) or any(deletions.values()):
        _close_off(delivery, sync)  # before anybody looks at what is there
    empty = _empty_tables(delivery, sync) if historical else set()
    pending = [plan.Pending(t.name, commits[t.name], deletions[t.name], t.name in empty) for t in tables]
    # Of the run, not of the window: another plan of the same window may hold other rows.
    stem = f"{sync.sync_id}.{run.run_id}"
    if historical:
        chunks = plan.history(pending, upto=snapshot.seq, stem=stem)
    else:
        careful = any(p.commits for p in pending) and _went_further(delivery, sync)
        chunks = plan.changes(pending, after=sync.watermark, upto=snapshot.seq, stem=stem, careful=careful)
    # Only what is new may come in any order: what replaces rows, or removes them, is one thing after the other.
    at_once = min(delivery.lanes, len(chunks)) if chunks and all(c.adds_only for c in chunks) else 1
    with delivery.ledger.transaction() as tx:
        if first:
            syncs.set_scope(tx, sync.sync_id, scope, generation=sync.generation, at=moment)
        return keep(tx, replace(nothing, chunks=tuple(chunks)), sync.generation, at_once)


def _close_off(delivery: Delivery, sync: Sync) -> None:
    """Make sure that nothing of a run that was ended can still arrive: a worker that is frozen in the middle of a chunk
    may go on with it at any time, and would bring old rows back.

    The batch it is at is loaded here, empty: its receipt then tells the late one that it was there before.
    """
    with delivery.ledger.transaction() as tx:
        ended = closing.to_close_off(tx, sync.sync_id)  # from here on none of them can be taken up again
    left = [run.chunks[n] for run in ended for n in lanes.left_open(run)]
    if not ended:
        return
    tables = {t.name: t for t in (METRIC, PROFILE, EVENT)}
    warehouse = delivery.config.open()
    try:
        for t in tables_of(sync.selection):
            warehouse.create(named(t, sync.selection.table_prefix))
        for chunk in left:
            target = named(tables[chunk.table], sync.selection.table_prefix)
            warehouse.load(Batch(chunk.batch_id, target, (), 0, SeqRange(chunk.seqs_after, chunk.seqs_upto)))
    finally:
        warehouse.close()
    with delivery.ledger.transaction() as tx:
        closing.closed_off(tx, [run.run_id for run in ended])


def _went_further(delivery: Delivery, sync: Sync) -> bool:
    """Whether the warehouse has receipts beyond the watermark: of a run that will not go on, or that our ledger, put
    back from a copy, knows nothing of. Rows of this window may be there then."""
    warehouse = delivery.config.open()
    try:
        reached = [warehouse.reached(named(t, sync.selection.table_prefix)) for t in tables_of(sync.selection)]
        return any(upto is not None and upto > sync.watermark for upto in reached)
    finally:
        warehouse.close()


def _empty_tables(delivery: Delivery, sync: Sync) -> set[str]:
    warehouse = delivery.config.open()
    try:
        empty = set()
        for table in tables_of(sync.selection):
            target = named(table, sync.selection.table_prefix)
            warehouse.create(target)
            if next(iter(warehouse.tally(target, SeqRange(None, None))), None) is None:
                empty.add(table.name)
        return empty
    finally:
        warehouse.close()
