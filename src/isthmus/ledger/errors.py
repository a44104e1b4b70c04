"""The error log of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, insert, select

from isthmus.ledger.database import Tx
from isthmus.ledger.schema import run_errors, runs
from isthmus.model.work import RunError


def keep(tx: Tx, run_id: str, error: RunError) -> None:
    """Keep what went wrong, whatever becomes of the run."""
    tx.execute(
        insert(run_errors).values(
            run_id=run_id,
            at=error.at,
            chunk=error.chunk,
            summary=error.summary,
            code=error.code,
            vendor=error.vendor,
            hint=error.hint,
            retryable=error.retryable,
            attempt=error.attempt,
            blame=error.blame or None,
        )
    )


def of(tx: Tx, run_ids: Iterable[str]) -> dict[str, tuple[RunError, ...]]:
    """What went wrong in those runs, oldest first; a run without errors is not in the answer."""
    found: defaultdict[str, tuple[RunError, ...]] = defaultdict(tuple)
    query = select(run_errors).where(run_errors.c.run_id.in_(list(run_ids))).order_by(run_errors.c.error_id)
    for row in tx.execute(query):
        found[row.run_id] += (
            RunError(
                row.summary,
                row.code,
                row.vendor,
                row.hint,
                row.retryable,
                row.at,
                row.chunk,
                row.attempt,
                row.blame or "",
            ),
        )
    return dict(found)


def since(tx: Tx, moment: datetime) -> dict[str, int]:
    """How many errors each sync had since then, by sync id; syncs without one are not in the answer."""
    query = (
        select(runs.c.sync_id, func.count().label("errors"))
        .join_from(run_errors, runs)
        .where(run_errors.c.at >= moment)
        .group_by(runs.c.sync_id)
    )
    return {row.sync_id: row.errors for row in tx.execute(query)}
