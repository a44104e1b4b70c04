"""Retention: what the ledger forgets, so that it stays small and its lists fast.

Kept whatever their age: runs that have work to do, the newest run of each sync, the runs that a proof of delivery needs
for its windows (those of the sync's present generation that delivered something historical), and what is not yet told
of incidents.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import and_, delete, exists, func, not_, or_, select

from isthmus.ledger import incidents
from isthmus.ledger.database import Ledger, Tx
from isthmus.ledger.schema import checks, chunks, lanes, run_errors, runs, syncs
from isthmus.model.work import ACTIVE, RunKind

EMPTY_FOR = timedelta(days=2)
"""How long runs are kept that found nothing to do: they are many, and the next one says the same."""

_STEP = 500
_EVER = datetime(1, 1, 1, tzinfo=UTC)


def gc(ledger: Ledger, *, now: datetime, keep: timedelta) -> int:
    """Forget runs that are older than `keep`, with their chunks, lanes and errors, and old checks and incidents.

    Returns how many runs. In short transactions, so that nobody waits for it; what is left when it is killed is for
    the next time.
    """
    before, empty_before = now - keep, now - min(keep, EMPTY_FOR)
    removed, since = 0, _EVER
    while True:
        with ledger.transaction() as tx:
            old = _old(tx, before, empty_before, since)
            ids = [run_id for run_id, _ in old]
            for table in (chunks, lanes, run_errors, runs):
                tx.execute(delete(table).where(table.c.run_id.in_(ids)))
            if len(ids) < _STEP:
                _others(tx, before)
        removed += len(ids)
        if len(ids) < _STEP:
            return removed
        since = old[-1][1]


def _old(tx: Tx, before: datetime, empty_before: datetime, since: datetime) -> list[tuple[str, datetime]]:
    """The next runs to forget and when they were planned, oldest first. What is older than `since` was looked at."""
    newer = runs.alias("newer")
    query = (
        select(runs.c.run_id, runs.c.planned_at)
        .join(syncs)
        .where(
            runs.c.planned_at >= since,
            or_(
                runs.c.planned_at < before,
                and_(runs.c.planned_at < empty_before, runs.c.rows_done == 0, runs.c.rows_total == 0),
            ),
            runs.c.state.not_in(ACTIVE),
            not_(and_(runs.c.kind == RunKind.HISTORICAL, runs.c.generation == syncs.c.generation)),
            exists().where(newer.c.sync_id == runs.c.sync_id, newer.c.planned_at > runs.c.planned_at),
            not_(exists().where(run_errors.c.run_id == runs.c.run_id, run_errors.c.at >= before)),
        )
        .order_by(runs.c.planned_at)
        .limit(_STEP)
    )
    return [(row.run_id, row.planned_at) for row in tx.execute(query)]


def _others(tx: Tx, before: datetime) -> None:
    newest = select(func.max(checks.c.check_id)).group_by(checks.c.connection_id)
    tx.execute(delete(checks).where(checks.c.at < before, checks.c.check_id.not_in(newest)))
    incidents.gc(tx, before)
