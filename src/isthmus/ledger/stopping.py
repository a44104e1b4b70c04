"""Runs that are not to go on: nobody is to begin a lane of them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import update

from isthmus.ledger.database import Tx
from isthmus.ledger.schema import lanes
from isthmus.model.work import LaneState


def unqueue(tx: Tx, run_ids: Collection[str]) -> None:
    """Take the lanes of these runs that wait out of their queue. Those at one notice by themselves."""
    waiting = (lanes.c.run_id.in_(list(run_ids)), lanes.c.state == LaneState.QUEUED)
    tx.execute(update(lanes).where(*waiting).values(state=LaneState.IDLE, worker_id=None, due_at=None))
