"""When the next run of each sync is due, and syncs that pause themselves because they keep failing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import or_, select, update

from isthmus.ledger import lanes, runs, syncs
from isthmus.ledger.database import Tx
from isthmus.ledger.schema import connections
from isthmus.ledger.schema import syncs as table
from isthmus.model.errors import InvalidInput
from isthmus.model.work import Attempt, Run, RunState, Sync, SyncState


def due(tx: Tx, now: datetime) -> list[Sync]:
    """Enabled syncs with a schedule whose next run is due, or for which that is not known yet.

    At a connection that is shut they wait: none before its next try, and then just the one that waits for longest.
    """
    rows = tx.execute(
        select(table.c.sync_id, table.c.connection_id, connections.c.next_try_at)
        .join_from(table, connections)
        .where(
            table.c.state == SyncState.ENABLED,
            table.c.schedule != "manual",
            or_(table.c.next_due.is_(None), table.c.next_due <= now),
            or_(connections.c.next_try_at.is_(None), connections.c.next_try_at <= now),
        )
        .order_by(table.c.next_due.is_not(None), table.c.next_due, table.c.sync_id)
    ).all()
    tried: set[str] = set()
    found = []
    for row in rows:
        if row.next_try_at is not None:
            if row.connection_id in tried:
                continue
            tried.add(row.connection_id)
        found.append(syncs.by_id(tx, row.sync_id))
    return found


def set_due(tx: Tx, sync_id: str, next_due: datetime | None) -> None:
    """Say when the next run of a sync is due; None: as soon as somebody looks (never, if its schedule is manual)."""
    tx.execute(update(table).where(table.c.sync_id == sync_id).values(next_due=next_due))


def start(tx: Tx, sync_id: str, *, at: datetime) -> list[Attempt]:
    """Begin the next run of a sync: the one that failed, if it can go on, or a new one. Its attempts, queued.

    Raises SyncBusy if a run is active, InvalidInput if the sync is not enabled.
    """
    sync = syncs.by_id(tx, sync_id, lock=True)
    if sync.state is not SyncState.ENABLED:
        raise InvalidInput(f"the sync {sync.name!r} is {sync.state.value}")
    found = resumable(tx, sync)
    if found is not None:
        return lanes.queue(tx, found.run_id, at=at)
    run = runs.schedule(tx, sync, at=at)
    return [lanes.open_lane(tx, run.run_id, None, at=at)]


def resumable(tx: Tx, sync: Sync) -> Run | None:
    """The failed run to go on with rather than to plan a new one: nothing went further since."""
    tried = open_ended(runs.newest(tx, sync_id=sync.sync_id, limit=100), sync)
    last = max(tried, key=lambda r: r.upto, default=None)
    if last is None or not last.can_go_again or last.after != sync.watermark:
        return None
    if sync.intake is not None and all(chunk.done for chunk in runs.get(tx, last.run_id).chunks):
        return None  # all rows were read, and what came of them was no success: to say that again would help nobody
    return last if runs.generation_of(tx, last.run_id) == sync.generation else None


def open_ended(found: Iterable[Run], sync: Sync) -> list[Run]:
    """Those runs that may have delivered something beyond the watermark, and have not moved it."""
    return [
        r for r in found if r.kind in runs.DELIVERING and r.state is not RunState.COMPLETED and r.upto > sync.watermark
    ]
