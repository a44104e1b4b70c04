"""Delivering: one run of an export, chunk by chunk, resumable at each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from isthmus.exports import plan
from isthmus.ledger import runs, syncs
from isthmus.ledger.database import Ledger
from isthmus.model.errors import IsthmusError, RunStopped
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
    run, careful = _unfinished(delivery, sync)
    if run is None:
        run = _planned(delivery, sync, careful=careful)
        if run is None:
            return None
        with delivery.ledger.reading() as tx:
            sync = syncs.by_id(tx, sync.sync_id)  # with the scope that planning has fixed
    return carry_out(delivery, sync, run)


def _unfinished(delivery: Delivery, sync: Sync) -> tuple[Run | None, bool]:
    """The run to go on with, if one was cut off or failed; and, for a new plan, whether rows beyond the watermark may
    be in the warehouse already, from a run that will not go on."""
    with delivery.ledger.reading() as tx:
        run = runs.active(tx, sync.sync_id)
        earlier = [r for r in runs.newest(tx, sync_id=sync.sync_id, limit=100) if r.kind is not RunKind.REPAIR]
        if run is None and earlier and earlier[0].state is RunState.FAILED and earlier[0].after == sync.watermark:
            run = runs.get(tx, earlier[0].run_id)
            if runs.generation_of(tx, run.run_id) != sync.generation:
                run = None
    if run is not None and not delivery.lake.has_snapshot(run.snapshot_id):
        # Its moment of the store is gone, so its chunks cannot be made again. What it delivered stays and counts.
        with delivery.ledger.transaction() as tx:
            runs.set_state(tx, run.run_id, RunState.CANCELLED, at=delivery.now())
        return None, True
    ended = (RunState.FAILED, RunState.CANCELLED)
    return run, any(r.state in ended and r.upto > sync.watermark for r in earlier)


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
                        raise RunStopped(f"the run was {state.value} by a person", hint="isthmus sync resume goes on")
            finally:
                warehouse.close()
        with delivery.ledger.transaction() as tx:
            return runs.finish(tx, run.run_id, at=now())
    except RunStopped:
        raise
    except IsthmusError as e:
        error = RunError(e.summary, e.code, e.vendor, e.hint, e.retryable, now(), at)
        with delivery.ledger.transaction() as tx:
            runs.fail(tx, run.run_id, error, state=RunState.RETRYING if e.retryable else RunState.FAILED)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def _planned(delivery: Delivery, sync: Sync, *, careful: bool) -> Run | None:
    """A new run over what changed since the watermark; None if there is nothing to deliver."""
    moment = delivery.now()  # taken first: everything up to it is in the snapshot
    snapshot = delivery.lake.snapshot()
    first = sync.scope is None
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
    stem = f"{sync.sync_id}.g{sync.generation}"
    chunks = (
        plan.history(pending, upto=snapshot.seq, stem=f"{stem}.s{snapshot.snapshot_id}")
        if historical
        else plan.changes(pending, after=sync.watermark, upto=snapshot.seq, stem=stem, careful=careful)
    )
    run = Run(
        run_id=runs.new_run_id(),
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
