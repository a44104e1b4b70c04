"""Syncs that keep failing, and pause themselves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update

from isthmus.ledger import syncs
from isthmus.ledger.database import Tx
from isthmus.ledger.schema import syncs as table
from isthmus.model.work import Sync, SyncState


def failed(tx: Tx, sync_id: str, *, because: str, limit: int, at: datetime) -> Sync:
    """Count a failed run. At the `limit`-th in a row the sync pauses itself and keeps why."""
    tx.execute(update(table).where(table.c.sync_id == sync_id).values(failures=table.c.failures + 1, updated_at=at))
    sync = syncs.by_id(tx, sync_id)
    if sync.failures >= limit and sync.state is SyncState.ENABLED:
        why = f"paused itself after {sync.failures} failed runs in a row, the last one because {because}"
        tx.execute(update(table).where(table.c.sync_id == sync_id).values(state=SyncState.PAUSED, paused_because=why))
    return syncs.by_id(tx, sync_id)


def succeeded(tx: Tx, sync_id: str) -> None:
    """A run was completed: what failed before does not count any more."""
    tx.execute(update(table).where(table.c.sync_id == sync_id, table.c.failures > 0).values(failures=0))


def forgive(tx: Tx, sync_id: str) -> None:
    """A person lets the sync go on: begin counting anew, and let it be due at once."""
    tx.execute(update(table).where(table.c.sync_id == sync_id).values(failures=0, paused_because=None, next_due=None))
