"""Proof of delivery: both sides counted and summed per window, each by its own engine; and repair of what differs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isthmus.exports import plan
from isthmus.exports.deliver import Delivery, changes_of, tables_of
from isthmus.ledger import delivered, dues, lanes, runs
from isthmus.model.errors import InvalidInput, RunStopped, SyncBusy
from isthmus.model.table import SeqRange, Table, Tally
from isthmus.model.tables import named
from isthmus.model.work import Attempt, Chunk, Run, RunError, RunKind, RunState, Sync
from isthmus.store.changes import Changes

_MODULUS = 1 << 128


@dataclass(frozen=True)
class Side:
    """Rows and checksum of one window on one side."""

    rows: int = 0
    checksum: int = 0

    def plus(self, tally: Tally) -> Side:
        return Side(self.rows + tally.rows, (self.checksum + tally.checksum) % _MODULUS)


@dataclass(frozen=True)
class WindowProof:
    """One window of one table, both sides. `outside` marks rows that no delivery of ours can explain."""

    table: str
    window: SeqRange
    store: Side
    warehouse: Side
    outside: bool = False

    @property
    def equal(self) -> bool:
        return self.store == self.warehouse


@dataclass(frozen=True)
class Proof:
    """The comparison of a whole sync at one moment of the store."""

    sync: str
    watermark: int
    snapshot_id: int
    windows: tuple[WindowProof, ...]

    @property
    def equal(self) -> bool:
        return all(w.equal for w in self.windows)

    @property
    def rows(self) -> int:
        return sum(w.store.rows for w in self.windows)


def verify(delivery: Delivery, sync: Sync) -> Proof:
    """Compare store and warehouse as of the sync's watermark, per window: what one chunk has delivered.

    Raises InvalidInput when there is nothing to compare yet, a run is unfinished, or the store's state of that moment
    is no longer kept. The caller sees to it that nothing is delivered meanwhile (`begin`).
    """
    source, snapshot_id = _compared(delivery, sync)
    _require_finished(delivery, sync)
    with delivery.ledger.reading() as tx:
        ends = delivered.bounds(tx, sync.sync_id, generation=sync.generation)
        ends += [w.upto for w in delivered.windows(tx, sync.sync_id, generation=sync.generation) if w.upto is not None]
    # Runs that found nothing to send moved the watermark without a window of their own; the bounds close such gaps.
    bounds = sorted({end for end in ends if end <= sync.watermark} | {sync.watermark})
    found: list[WindowProof] = []
    warehouse = delivery.config.open()
    try:
        for table in tables_of(sync.selection):
            target = named(table, sync.selection.table_prefix)
            ours = source.tally(table, SeqRange(None, sync.watermark))
            theirs = warehouse.tally(target, SeqRange(None, None))
            found += compare(target, bounds, ours, theirs)
    finally:
        warehouse.close()
    return Proof(sync.name, sync.watermark, snapshot_id, tuple(found))


def compare(table: Table, bounds: Sequence[int], ours: Iterable[Tally], theirs: Iterable[Tally]) -> list[WindowProof]:
    """Both sides per window; `bounds` are the windows' upper ends in order, the first window beginning at 0.

    Rows of the warehouse without a commit number, or with one beyond the last bound, make a window of their own.
    """
    count = len(bounds) + 1
    left, right = [Side()] * count, [Side()] * count
    for sides, tallies in ((left, ours), (right, theirs)):
        for tally in tallies:
            inside = tally.seq is not None and 0 < tally.seq <= bounds[-1]
            at = bisect_left(bounds, tally.seq) if inside and tally.seq is not None else count - 1
            sides[at] = sides[at].plus(tally)
    proofs = [
        WindowProof(table.name, SeqRange(bounds[i - 1] if i else 0, bound), left[i], right[i])
        for i, bound in enumerate(bounds)
    ]
    if right[-1].rows:
        proofs.append(WindowProof(table.name, SeqRange(None, None), Side(), right[-1], outside=True))
    return proofs


def begin(delivery: Delivery, sync: Sync, worker_id: str) -> Attempt:
    """Let a verification be the one active run of the sync, so that nothing else is delivered until it is over.

    Raises SyncBusy if a run is under way, InvalidInput if there is nothing to compare (see `verify`).
    """
    with delivery.ledger.reading() as tx:
        active = runs.active(tx, sync.sync_id)
    if active is not None:
        raise SyncBusy(f"a run of {sync.name!r} is under way ({active.run_id})", hint="wait for it, or cancel it")
    _compared(delivery, sync)
    _require_finished(delivery, sync)
    moment = delivery.now()
    run = Run(
        run_id=runs.new_run_id(),
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=RunKind.VERIFICATION,
        state=RunState.RUNNING,
        after=sync.watermark,
        upto=sync.watermark,
        snapshot_id=sync.snapshot_id or 0,
        snapshot_at=moment,
        planned_at=moment,
        started_at=moment,
    )
    with delivery.ledger.transaction() as tx:
        runs.start(tx, run, generation=sync.generation)
        return lanes.open_lane(tx, run.run_id, worker_id, at=moment)


def end(delivery: Delivery, attempt: Attempt, worker_id: str, error: RunError | None) -> None:
    """Close a verification: completed, or failed with what went wrong."""
    with delivery.ledger.transaction() as tx:
        if not lanes.is_held(tx, attempt, worker_id):
            return
        if error is None:
            done = lanes.settle(tx, attempt, worker_id, at=delivery.now())
        else:
            done = runs.fail(tx, attempt.run_id, error)
            lanes.goes_on(tx, attempt, worker_id)  # it does not, and so the lane is free
    if done is None:
        raise RunStopped(f"the verification {attempt.run_id} was stopped", hint="verify again")


def repair(delivery: Delivery, sync: Sync, proof: Proof, worker_id: str) -> tuple[Attempt, Run] | None:
    """A run that delivers again just the windows that differ, each in place of what the warehouse has there, and that
    the worker has in hand; None if nothing differs.

    Rows that no delivery explains are removed by replacing the whole table's range. Verify again afterwards.
    """
    if proof.equal:
        return None
    origin, snapshot_id = _compared(delivery, sync)
    run_id = runs.new_run_id()
    stem = f"{sync.sync_id}.g{sync.generation}.{run_id}"
    chunks: list[Chunk] = []
    for table in tables_of(sync.selection):
        target = named(table, sync.selection.table_prefix)
        differing = [w for w in proof.windows if w.table == target.name and not w.equal]
        ranges = [SeqRange(None, None)] if any(w.outside for w in differing) else [w.window for w in differing]
        for window in ranges:
            seqs = SeqRange(window.after, window.upto if window.upto is not None else sync.watermark)
            commits = [(c.seq, c.rows, c.older) for c in origin.commits(table, seqs)]
            chunks += plan.replacing(
                table.name, commits, window.after, window.upto, stem, first=len(chunks), top=sync.watermark
            )
    moment = delivery.now()
    snapshot = delivery.lake.snapshot()
    run = Run(
        run_id=run_id,
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=RunKind.REPAIR,
        state=RunState.RUNNING,
        after=0,
        upto=sync.watermark,
        snapshot_id=snapshot_id,
        snapshot_at=snapshot.at,
        planned_at=moment,
        started_at=moment,
        chunks=tuple(chunks),
    )
    with delivery.ledger.transaction() as tx:
        run = runs.start(tx, run, generation=sync.generation)
        return lanes.open_lane(tx, run_id, worker_id, at=moment), run


def _require_finished(delivery: Delivery, sync: Sync) -> None:
    """Between two states there is nothing to prove: what an unfinished run has delivered is ahead of the watermark."""
    with delivery.ledger.reading() as tx:
        found = dues.open_ended(runs.newest(tx, sync_id=sync.sync_id, limit=100), sync)
    begun = [run for run in found if run.rows_done]
    if begun:
        raise InvalidInput(
            f"a run of {sync.name!r} has delivered a part and is {begun[0].state.value}",
            hint=f"finish it, then verify: isthmus sync run {sync.name}",
        )


def _compared(delivery: Delivery, sync: Sync) -> tuple[Changes, int]:
    if sync.scope is None or sync.snapshot_id is None:
        raise InvalidInput(
            f"the sync {sync.name!r} has not delivered anything yet", hint=f"run it first: isthmus sync run {sync.name}"
        )
    snapshot_id = sync.snapshot_id
    if not delivery.lake.has_snapshot(snapshot_id):
        present = delivery.lake.snapshot()
        if present.seq != sync.watermark:
            raise InvalidInput(
                f"the store's state of the last delivery of {sync.name!r} is no longer kept",
                hint=f"bring the warehouse up to date, then verify: isthmus sync run {sync.name}",
            )
        snapshot_id = present.snapshot_id
    return changes_of(delivery.lake, snapshot_id, sync, sync.scope), snapshot_id
