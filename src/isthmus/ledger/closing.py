"""Runs that were ended while something of them may still be on its way."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select, update

from isthmus.ledger.database import Tx
from isthmus.ledger.runs import get
from isthmus.ledger.schema import runs
from isthmus.model.work import Run, RunState

_CLOSING, _CLOSED_OFF = 1, 2


def to_close_off(tx: Tx, sync_id: str) -> list[Run]:
    """The runs of a sync that were ended by a person or failed, of which something may still be on its way, with their
    chunks. From now on none of them can go again. Say `closed_off` when nothing of them can arrive any more."""
    which = (
        runs.c.sync_id == sync_id,
        runs.c.state.in_((RunState.CANCELLED, RunState.FAILED)),
        runs.c.started_at.is_not(None),
        runs.c.planned,
        runs.c.closing != _CLOSED_OFF,
    )
    tx.execute(update(runs).where(*which).values(closing=_CLOSING))
    return [get(tx, run_id) for run_id in tx.scalars(select(runs.c.run_id).where(*which))]


def closed_off(tx: Tx, run_ids: Collection[str]) -> None:
    """Nothing of these runs can arrive any more."""
    tx.execute(update(runs).where(runs.c.run_id.in_(list(run_ids))).values(closing=_CLOSED_OFF))
