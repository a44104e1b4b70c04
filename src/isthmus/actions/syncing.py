"""What a person does with a sync: run it, pause it, prove it, mend it, look at it."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from isthmus.actions.here import Here, delivery_of, present
from isthmus.app import App
from isthmus.exports import deliver, plan, prove
from isthmus.exports.prove import Proof
from isthmus.ledger import failures, lanes, runs, syncs
from isthmus.model.errors import InvalidInput, IsthmusError, StoreBusy
from isthmus.model.table import SeqRange
from isthmus.model.work import Run, RunError, RunKind, RunState, Scope, Sync, SyncState
from isthmus.runs.attempt import Report
from isthmus.store import upkeep
from isthmus.store.lake import Lake


def run_sync(app: App, name: str, *, report: Report = lambda run, done: None, wait: bool = True) -> Run | None:
    """Bring the warehouse of a sync up to the present moment. None: nothing had changed.

    Where workers are at work it is theirs to do: with `wait` this comes back when it is done, else at once with the
    run as it is. Where there is none it is done here. Raises SyncBusy if another command is at it, InvalidInput for a
    paused or disabled sync, else what stopped the run.
    """
    _require_enabled(app.sync(name))
    with present(app) as here:
        before = here.before(name)
        if here.workers():
            return here.hand_over(name, before, report, wait=wait)
        done: list[Run] = []
        while (run := here.run(name, report)) is not None:
            if run.chunks:
                done.append(run)
            if run.state is RunState.COMPLETED and run.run_id not in before:
                break
    if done:
        tidy_if_free(app)
    return done[-1] if done else None


def _require_enabled(sync: Sync) -> None:
    if sync.state is not SyncState.ENABLED:
        paused = sync.state is SyncState.PAUSED
        hint = f"isthmus sync resume {sync.name}" if paused else "its connection was removed: apply both again"
        because = f": it {sync.paused_because}" if sync.paused_because else ""
        raise InvalidInput(f"the sync {sync.name!r} is {sync.state.value}{because}", hint=hint)


def verify_sync(app: App, name: str) -> Proof:
    """Compare the store and the warehouse, window by window. See `exports.prove.verify`.

    Nothing is delivered meanwhile. Raises SyncBusy if a run is under way.
    """
    with present(app) as here:
        return _verified(app, here, app.sync(name))


def _verified(app: App, here: Here, sync: Sync) -> Proof:
    delivery = delivery_of(app, sync)
    here.forget_the_dead()
    attempt = prove.begin(delivery, sync, here.worker_id)
    try:
        proof = prove.verify(delivery, app.sync(sync.name))
    except BaseException as e:
        ours = e if isinstance(e, IsthmusError) else IsthmusError("the verification was broken off")
        error = RunError(ours.summary, ours.code, ours.vendor, ours.hint, ours.retryable, app.now())
        prove.end(delivery, attempt, here.worker_id, error)
        raise
    prove.end(delivery, attempt, here.worker_id, None)
    return proof


def repair_sync(app: App, name: str, *, report: Report = lambda run, done: None) -> tuple[Proof, Run | None, Proof]:
    """Verify, deliver again the windows that differ, and verify again: the proof before, the run, the proof after."""
    with present(app) as here:
        sync = app.sync(name)
        before = _verified(app, here, sync)
        begun = prove.repair(delivery_of(app, sync), sync, before, here.worker_id)
        if begun is None:
            return before, None, before
        attempt, run = begun
        done = here.carry(attempt, run, report)
        return before, done, _verified(app, here, app.sync(name))


def preview_sync(app: App, name: str) -> list[dict[str, object]]:
    """What a run of an export would send now, per table: rows, deletions, and rows of the commits in scope. Changes
    nothing. Raises InvalidInput for an import: `previewing.preview_import` is for those."""
    sync = app.sync(name)
    if sync.intake is not None:
        raise InvalidInput(f"{name!r} is an import", hint="an import sends nothing")
    snapshot = app.lake.snapshot()
    scope = sync.scope or Scope(plan.events_since(sync.selection.history, app.now()), snapshot.seq)
    source = deliver.changes_of(app.lake, snapshot.snapshot_id, sync, scope)
    window = SeqRange(sync.watermark, snapshot.seq)
    return [
        {
            "table": sync.selection.table_prefix + table.name,
            "rows": sum(c.rows for c in source.commits(table, window)),
            "deletions": source.deletions(table, window) if sync.watermark else 0,
            "after": window.after,
            "upto": window.upto,
        }
        for table in deliver.tables_of(sync.selection)
    ]


def list_syncs(app: App) -> list[tuple[Sync, Run | None]]:
    """All syncs, each with its newest run."""
    with app.ledger.reading() as tx:
        newest = runs.newest_of_each(tx)
        return [(sync, newest.get(sync.sync_id)) for sync in syncs.every(tx)]


def show_sync(app: App, name: str, *, runs_shown: int = 10) -> tuple[Sync, list[Run]]:
    """A sync and its newest runs."""
    with app.ledger.reading() as tx:
        sync = syncs.named(tx, name)
        return sync, runs.newest(tx, sync_id=sync.sync_id, limit=runs_shown)


def pause_sync(app: App, name: str) -> Sync:
    """Stop a sync at the next chunk boundary; nothing delivered is undone. Pausing again changes nothing."""
    with app.ledger.transaction() as tx:
        sync = syncs.by_id(tx, syncs.named(tx, name).sync_id, lock=True)  # its run must not fail between two looks
        active = runs.active(tx, sync.sync_id)
        if active is not None and active.kind is not RunKind.VERIFICATION:
            runs.set_state(tx, active.run_id, RunState.PAUSED, at=app.now())
        return syncs.set_state(tx, sync.sync_id, SyncState.PAUSED, at=app.now())


def resume_sync(app: App, name: str) -> Sync:
    """Let a paused sync go on: a run that was stopped continues where it was, and the next one is due at once."""
    with app.ledger.transaction() as tx:
        sync = syncs.named(tx, name)
        if sync.state is SyncState.ENABLED:
            return sync
        done = syncs.set_state(tx, sync.sync_id, SyncState.ENABLED, at=app.now())
        failures.forgive(tx, sync.sync_id)
        active = runs.active(tx, sync.sync_id)
        if active is not None and active.state is RunState.PAUSED:
            lanes.queue(tx, active.run_id, at=app.now())
        return done


def reactivate_sync(app: App, name: str) -> Sync:
    """Enable a sync and deliver its whole history again at the next run, in place of what is there."""
    with app.ledger.transaction() as tx:
        sync = syncs.named(tx, name)
        syncs.set_state(tx, sync.sync_id, SyncState.ENABLED, at=app.now())
        failures.forgive(tx, sync.sync_id)
        return syncs.restart(tx, sync.sync_id, at=app.now())


def list_runs(app: App, *, sync: str | None, limit: int) -> list[Run]:
    with app.ledger.reading() as tx:
        sync_id = syncs.named(tx, sync).sync_id if sync else None
        return runs.newest(tx, sync_id=sync_id, limit=limit)


def show_run(app: App, run_id: str) -> Run:
    with app.ledger.reading() as tx:
        return runs.matching(tx, run_id)


def cancel_run(app: App, run_id: str) -> Run:
    """End a run at its next chunk boundary. What it delivered stays; the next run begins at the watermark."""
    with app.ledger.transaction() as tx:
        run = runs.matching(tx, run_id)
        return runs.set_state(tx, run.run_id, RunState.CANCELLED, at=app.now())


def tidy(app: App, *, erase_now: bool = False, lake: Lake | None = None) -> upkeep.Report:
    """Keep the store's files in good order. Snapshots that runs under way still read are kept."""

    def being_read() -> list[int]:
        with app.ledger.reading() as tx:
            return runs.snapshots_in_use(tx)

    retention = timedelta(hours=app.settings.snapshot_retention_hours)
    return upkeep.tidy(lake or app.lake, retention=retention, keep=being_read, erase_now=erase_now)


def tidy_if_free(app: App, *, erase_now: bool = False, lake: Lake | None = None) -> None:
    """Upkeep after work that is done: if another process is writing, the next one that ends does it."""
    with suppress(StoreBusy):
        tidy(app, erase_now=erase_now, lake=lake)


def last_upkeep(app: App) -> upkeep.Report | None:
    """What the last upkeep that had something to do did."""
    return upkeep.last(app.lake)
