"""Doors: what runs find out about their connection, and what waits until it can be entered again.

A connection is *shut* when nobody gets in: no answer, a sign-in that is refused, credentials that cannot be read. All
its syncs wait then; one of them tries from time to time, and when it gets in all go on at once. Where only a right is
missing inside, nothing waits: other syncs may have all they need.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from sqlalchemy import select

from isthmus.ledger import connections, dues, failures, lanes, runs, syncs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Tx
from isthmus.ledger.schema import runs as runs_table
from isthmus.ledger.schema import syncs as syncs_table
from isthmus.model.errors import SyncBusy
from isthmus.model.work import ConnectionState, Direction, Run, RunState, Sync, SyncState


def of_run(tx: Tx, run_id: str) -> StoredConnection:
    """The connection that a run is at."""
    query = select(syncs_table.c.connection_id).join_from(runs_table, syncs_table)
    return connections.by_id(tx, tx.scalars(query.where(runs_table.c.run_id == run_id)).one())


def worked(tx: Tx, run: Run, *, whole: bool, at: datetime) -> list[str]:
    """A run has loaded or read something there, or is complete (`whole`): the syncs that go on because of it.

    That says that one gets in. What was refused inside is known to be given only when the run to which it was refused
    is complete; what a check missed, when any run is. A run that had nothing to do has asked nobody.
    """
    was = of_run(tx, run.run_id)
    if was.state is not ConnectionState.UNABLE or was.finding is None:
        return []
    sync = syncs.by_id(tx, run.sync_id)
    asked = bool(run.chunks) or sync.direction is Direction.IMPORT
    enough = was.is_shut or (whole and was.finding.sync in ("", sync.name))
    if not asked or not enough:
        return []
    connections.set_able(tx, was.connection_id, at=at)
    return go_on(tx, was.connection_id, at=at)


def go_on(tx: Tx, connection_id: str, *, at: datetime) -> list[str]:
    """The way in is another one, or was found open: let what failed or waits because of it go on at once. The names of
    those syncs. One that a person paused stays so."""
    return [sync.name for sync in syncs.of(tx, connection_id) if _goes_on(tx, sync, at)]


def _goes_on(tx: Tx, seen: Sync, at: datetime) -> bool:
    sync = syncs.by_id(tx, seen.sync_id, lock=True)
    if sync.state is SyncState.DISABLED or (sync.state is SyncState.PAUSED and not sync.paused_because):
        return False
    active = runs.active(tx, sync.sync_id)
    if active is not None:
        if active.state is not RunState.RETRYING or not _is_to_blame(active):
            return False
        lanes.queue(tx, active.run_id, at=at)
        return True
    last = next(iter(runs.newest(tx, sync_id=sync.sync_id, limit=1)), None)
    if last is None or last.state is not RunState.FAILED or not _is_to_blame(last):
        return False
    if sync.state is SyncState.PAUSED:
        syncs.set_state(tx, sync.sync_id, SyncState.ENABLED, at=at)
    failures.forgive(tx, sync.sync_id)
    if sync.schedule == "manual":  # nothing else would begin it, and a person has asked for it
        with suppress(SyncBusy):
            dues.start(tx, sync.sync_id, at=at)
    return True


def _is_to_blame(run: Run) -> bool:
    return bool(run.errors) and bool(run.errors[-1].blame)
