"""Delivering: one run of an export, chunk by chunk, resumable at each."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from isthmus.exports import plan
from isthmus.ledger import runs, syncs
from isthmus.ledger.database import Ledger
from isthmus.model.errors import InvalidInput, IsthmusError, RunStopped, StoreFull, StoreMissing
from isthmus.model.table import Batch, SeqRange, Table
from isthmus.model.tables import EVENT, METRIC, PROFILE, named
from isthmus.model.work import Chunk, Run, RunError, RunKind, RunState, Scope, Selection, Sync
from isthmus.store.changes import Changes
from isthmus.store.lake import Lake
from isthmus.warehouses.protocol import Config, Warehouse

Report = Callable[[Run, int], None]
"""Told when a run begins and after each chunk: the run, and how many of its rows are delivered."""


@dataclass(frozen=True)
class Delivery:
    """All that a run needs: where from, where to, and what keeps the record."""

    lake: Lake
    ledger: Ledger
    config: Config
    now: Callable[[], datetime]
    report: Report = lambda run, done: None


def tables_of(selection: Selection) -> list[Table]:
    """The tables that a selection keeps, in the order in which they are delivered."""
    wanted = [METRIC] if selection.events else []
    wanted += [PROFILE] if selection.profiles else []
    return wanted + ([EVENT] if selection.events else [])


def deliver(delivery: Delivery, sync: Sync) -> Run | None:
    """Bring the warehouse up to the present moment: finish the run that was cut off, or make and carry out a new one.

    Returns the run, or None when nothing had changed; then the warehouse was not opened. The caller holds the sync's
    lease. Raises what stopped the run, after keeping it in the run's error log.
    """
    finished = None
    if (cut_off := _unfinished(delivery, sync)) is not None:
        finished = carry_out(delivery, sync, cut_off)
        with delivery.ledger.reading() as tx:
            sync = syncs.by_id(tx, sync.sync_id)
    run = _planned(delivery, sync)
    if run is None:
        return finished
    with delivery.ledger.reading() as tx:
        sync = syncs.by_id(tx, sync.sync_id)  # with the scope that planning has fixed
    return carry_out(delivery, sync, run)


def _unfinished(delivery: Delivery, sync: Sync) -> Run | None:
    """The run to go on with: one that was cut off, or that failed and of which nothing went further since."""
    with delivery.ledger.reading() as tx:
        run = runs.active(tx, sync.sync_id)
        if run is None:
            tried = [r for r in open_ended(runs.newest(tx, sync_id=sync.sync_id, limit=100), sync)]
            last = max(tried, key=lambda r: r.upto, default=None)
            if last is not None and last.state is RunState.FAILED and last.after == sync.watermark:
                run = runs.get(tx, last.run_id)
                if runs.generation_of(tx, run.run_id) != sync.generation:
                    run = None
    if run is not None and not delivery.lake.has_snapshot(run.snapshot_id):
        # Its moment of the store is gone, so its chunks cannot be made again. What it delivered stays and counts.
        with delivery.ledger.transaction() as tx:
            runs.set_state(tx, run.run_id, RunState.CANCELLED, at=delivery.now())
        return None
    return run


def open_ended(found: Iterable[Run], sync: Sync) -> list[Run]:
    """Those runs that may have delivered something beyond the watermark, and have not moved it."""
    return [
        r
        for r in found
        if r.kind is not RunKind.REPAIR and r.state is not RunState.COMPLETED and r.upto > sync.watermark
    ]


def carry_out(delivery: Delivery, sync: Sync, run: Run) -> Run:
    """Deliver the chunks of a run that are not done, and close it. Doing it again, after a kill at any moment, ends
    the same: a chunk whose outcome is unknown is known by its receipt."""
    now = delivery.now
    with delivery.ledger.transaction() as tx:
        runs.set_state(tx, run.run_id, RunState.RUNNING, at=now())
    folder = delivery.lake.spool / run.run_id
    at = ""
    try:
        done = sum(c.rows for c in run.chunks if c.done)
        delivery.report(run, done)
        todo = [c for c in run.chunks if not c.done]
        if todo:
            warehouse = delivery.config.open()
            try:
                for table in tables_of(sync.selection):
                    warehouse.create(named(table, sync.selection.table_prefix))
                for chunk in todo:
                    at = f"{chunk.table} {chunk.part} ({chunk.seqs_after}, {chunk.seqs_upto}]"
                    rows = _deliver_chunk(delivery, sync, run, chunk, warehouse, folder)
                    with delivery.ledger.transaction() as tx:
                        state = runs.finish_chunk(tx, run.run_id, chunk.number, rows=rows)
                    done += rows
                    delivery.report(run, done)
                    if state is not RunState.RUNNING:
                        hint = (
                            f"isthmus sync resume {sync.name}"
                            if state is RunState.PAUSED
                            else f"isthmus sync run {sync.name}"
                        )
                        raise RunStopped(f"the run was {state.value} by a person", hint=f"to go on: {hint}")
            finally:
                warehouse.close()
        with delivery.ledger.transaction() as tx:
            return runs.finish(tx, run.run_id, at=now())
    except RunStopped:
        raise
    except (IsthmusError, OSError) as caught:
        e = _of_the_spool(caught) if isinstance(caught, OSError) else caught
        error = RunError(e.summary, e.code, e.vendor, e.hint, e.retryable, now(), at)
        with delivery.ledger.transaction() as tx:
            runs.fail(tx, run.run_id, error, state=RunState.RETRYING if e.retryable else RunState.FAILED)
        raise e from caught
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_the_spool(e: OSError) -> IsthmusError:
    if e.errno == errno.ENOSPC:
        return StoreFull("the disk is full", hint="free some space and run the sync again", vendor=str(e))
    return StoreMissing("files on their way cannot be written", hint="look after the home folder", vendor=str(e))


def _deliver_chunk(delivery: Delivery, sync: Sync, run: Run, chunk: Chunk, warehouse: Warehouse, folder: Path) -> int:
    table = next(t for t in tables_of(sync.selection) if t.name == chunk.table)
    assert sync.scope is not None
    source = Changes(delivery.lake, run.snapshot_id, sync.selection, sync.scope)
    file = folder / f"{chunk.number:06d}.parquet"
    seqs = SeqRange(chunk.seqs_after, chunk.seqs_upto)
    try:
        rows = source.extract(table, seqs, file, deletes=chunk.part == "deletes")
        batch = Batch(
            batch_id=chunk.batch_id,
            table=named(table, sync.selection.table_prefix),
            files=(file,),
            rows=rows,
            seqs=seqs,
            adds_only=chunk.adds_only,
            replaces=SeqRange(chunk.replaces_after, chunk.replaces_upto) if chunk.replaces else None,
        )
        return warehouse.load(batch).rows
    finally:
        file.unlink(missing_ok=True)


def _planned(delivery: Delivery, sync: Sync) -> Run | None:
    """A new run over what changed since the watermark; None if there is nothing to deliver."""
    moment = delivery.now()  # taken first: everything up to it is in the snapshot
    snapshot = delivery.lake.snapshot()
    first = sync.scope is None
    if snapshot.seq < sync.watermark:
        raise InvalidInput(
            f"the store is older than what {sync.name!r} has delivered: it was put back or replaced",
            hint=f"to send everything again, in place of what is there: isthmus sync reactivate {sync.name}",
        )
    if not first and snapshot.seq == sync.watermark:
        _advance(delivery, sync, snapshot.seq, snapshot.snapshot_id, moment)
        return None
    scope = sync.scope or Scope(plan.events_since(sync.selection.history, moment), snapshot.seq)
    source = Changes(delivery.lake, snapshot.snapshot_id, sync.selection, scope)
    window = SeqRange(sync.watermark, snapshot.seq)
    historical = sync.watermark == 0
    empty = _empty_tables(delivery, sync) if historical else set()
    pending = [
        plan.Pending(
            t.name,
            [(c.seq, c.rows, c.older) for c in source.commits(t, window)],
            0 if historical else source.deletions(t, window),
            t.name in empty,
        )
        for t in tables_of(sync.selection)
    ]
    run_id = runs.new_run_id()
    # Of the run, not of the window: another plan of the same window may hold other rows.
    stem = f"{sync.sync_id}.{run_id}"
    if historical:
        chunks = plan.history(pending, upto=snapshot.seq, stem=stem)
    else:
        careful = any(p.commits for p in pending) and _went_further(delivery, sync)
        chunks = plan.changes(pending, after=sync.watermark, upto=snapshot.seq, stem=stem, careful=careful)
    run = Run(
        run_id=run_id,
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=RunKind.HISTORICAL if historical else RunKind.PERIODIC,
        state=RunState.RUNNING,
        after=sync.watermark,
        upto=snapshot.seq,
        snapshot_id=snapshot.snapshot_id,
        snapshot_at=moment,
        planned_at=moment,
        started_at=moment,
        chunks=tuple(chunks),
    )
    with delivery.ledger.transaction() as tx:
        if first:
            syncs.set_scope(tx, sync.sync_id, scope, generation=sync.generation, at=moment)
        if chunks or historical:
            return runs.start(tx, run, generation=sync.generation)
    _advance(delivery, sync, snapshot.seq, snapshot.snapshot_id, moment)  # all that changed is out of scope
    return None


def _advance(delivery: Delivery, sync: Sync, watermark: int, snapshot_id: int, fresh_at: datetime) -> None:
    with delivery.ledger.transaction() as tx:
        syncs.advance(
            tx,
            sync.sync_id,
            generation=sync.generation,
            watermark=watermark,
            snapshot_id=snapshot_id,
            fresh_at=fresh_at,
            at=delivery.now(),
        )


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
