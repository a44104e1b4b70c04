"""What a person does with a sync: run it, pause it, prove it, mend it, look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from isthmus.app import App
from isthmus.exports import deliver, plan, prove
from isthmus.exports.deliver import Delivery, Report
from isthmus.exports.prove import Proof
from isthmus.ledger import connections, runs, syncs
from isthmus.model.errors import InvalidInput, StoreBusy
from isthmus.model.table import SeqRange
from isthmus.model.work import Run, RunState, Scope, Sync, SyncState
from isthmus.runs import lease
from isthmus.store import upkeep
from isthmus.store.changes import Changes


def run_sync(app: App, name: str, *, report: Report = lambda run, done: None) -> Run | None:
    """Bring the warehouse of a sync up to date now, in this process. None: nothing had changed.

    Raises SyncBusy if another process is at it, InvalidInput for a paused or disabled sync, else what stopped the run.
    """
    with _leased(app, name) as sync:
        if sync.state is not SyncState.ENABLED:
            paused = sync.state is SyncState.PAUSED
            hint = f"isthmus sync resume {name}" if paused else "its connection was removed: apply both again"
            raise InvalidInput(f"the sync {name!r} is {sync.state.value}", hint=hint)
        run = deliver.deliver(_delivery(app, sync, report), sync)
    if run is not None:
        tidy_if_free(app)
    return run


def verify_sync(app: App, name: str) -> Proof:
    """Compare the store and the warehouse, window by window. See `exports.prove.verify`."""
    with _leased(app, name) as sync:
        return prove.verify(_delivery(app, sync), sync)


def repair_sync(app: App, name: str, *, report: Report = lambda run, done: None) -> tuple[Proof, Run | None, Proof]:
    """Verify, deliver again the windows that differ, and verify again: the proof before, the run, the proof after."""
    with _leased(app, name) as sync:
        delivery = _delivery(app, sync, report)
        before = prove.verify(delivery, sync)
        run = prove.repair(delivery, sync, before)
        return before, run, before if run is None else prove.verify(delivery, sync)


def preview_sync(app: App, name: str) -> list[dict[str, object]]:
    """What a run would send now, per table: rows, deletions, and rows of the commits in scope. Changes nothing."""
    sync = app.sync(name)
    snapshot = app.lake.snapshot()
    scope = sync.scope or Scope(plan.events_since(sync.selection.history, app.now()), snapshot.seq)
    source = Changes(app.lake, snapshot.snapshot_id, sync.selection, scope)
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


def list_syncs(app: App) -> list[Sync]:
    with app.ledger.reading() as tx:
        return syncs.every(tx)


def show_sync(app: App, name: str, *, runs_shown: int = 10) -> tuple[Sync, list[Run]]:
    """A sync and its newest runs."""
    with app.ledger.reading() as tx:
        sync = syncs.named(tx, name)
        return sync, runs.newest(tx, sync_id=sync.sync_id, limit=runs_shown)


def pause_sync(app: App, name: str) -> Sync:
    """Stop a sync at the next chunk boundary; nothing delivered is undone. Pausing again changes nothing."""
    with app.ledger.transaction() as tx:
        sync = syncs.named(tx, name)
        active = runs.active(tx, sync.sync_id)
        if active is not None:
            runs.set_state(tx, active.run_id, RunState.PAUSED, at=app.now())
        return syncs.set_state(tx, sync.sync_id, SyncState.PAUSED, at=app.now())


def resume_sync(app: App, name: str) -> Sync:
    """Let a paused sync go on: its next run continues where it was stopped."""
    with app.ledger.transaction() as tx:
        sync = syncs.named(tx, name)
        return syncs.set_state(tx, sync.sync_id, SyncState.ENABLED, at=app.now())


def reactivate_sync(app: App, name: str) -> Sync:
    """Enable a sync and deliver its whole history again at the next run, in place of what is there."""
    with app.ledger.transaction() as tx:
        sync = syncs.named(tx, name)
        syncs.set_state(tx, sync.sync_id, SyncState.ENABLED, at=app.now())
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


def tidy(app: App, *, erase_now: bool = False) -> upkeep.Report:
    """Keep the store's files in good order. Snapshots that runs under way still read are kept."""

    def being_read() -> list[int]:
        with app.ledger.reading() as tx:
            return [a.snapshot_id for s in syncs.every(tx) if (a := runs.active(tx, s.sync_id))]

    retention = timedelta(hours=app.settings.snapshot_retention_hours)
    return upkeep.tidy(app.lake, retention=retention, keep=being_read, erase_now=erase_now)


def tidy_if_free(app: App, *, erase_now: bool = False) -> None:
    """Upkeep after work that is done: if another process is writing, the next one that ends does it."""
    with suppress(StoreBusy):
        tidy(app, erase_now=erase_now)


def last_upkeep(app: App) -> upkeep.Report | None:
    """What the last upkeep that had something to do did."""
    return upkeep.last(app.lake)


@contextmanager
def _leased(app: App, name: str) -> Iterator[Sync]:
    sync = app.sync(name)
    with lease.held(sync.sync_id, name, folder=app.home / "locks", database_url=app.settings.database_url):
        yield app.sync(name)  # as it is now that nobody else runs it


def _delivery(app: App, sync: Sync, report: Report = lambda run, done: None) -> Delivery:
    with app.ledger.reading() as tx:
        connection = connections.by_id(tx, sync.connection_id)
    return Delivery(app.lake, app.ledger, app.config(connection), app.now, report)
