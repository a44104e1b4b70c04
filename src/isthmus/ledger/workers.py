"""Workers: the processes that carry out runs, and the sign of life that each gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from isthmus.ledger.database import Tx
from isthmus.ledger.schema import workers


@dataclass(frozen=True)
class Worker:
    """One process. `role` is "serve", "worker" or "command" (a person's command that carries out one run itself)."""

    worker_id: str
    role: str
    place: str
    beat: int
    started_at: datetime
    seen_at: datetime

    @property
    def takes_runs(self) -> bool:
        """Whether it takes up whatever is due, and not just what a person asked of it."""
        return self.role != "command"


def join(tx: Tx, worker_id: str, *, role: str, place: str, at: datetime) -> None:
    """Keep that a worker is there."""
    tx.execute(insert(workers).values(worker_id=worker_id, role=role, place=place, beat=0, started_at=at, seen_at=at))


def beat(tx: Tx, worker_id: str, *, at: datetime) -> bool:
    """Give a sign of life. False if the others think it gone: it has to join again, under another id."""
    done = tx.execute(
        update(workers).where(workers.c.worker_id == worker_id).values(beat=workers.c.beat + 1, seen_at=at)
    )
    return bool(done.rowcount)


def leave(tx: Tx, worker_id: str) -> None:
    """Forget a worker. Doing so twice changes nothing."""
    tx.execute(delete(workers).where(workers.c.worker_id == worker_id))


def is_there(tx: Tx, worker_id: str) -> bool:
    """Whether a worker has joined and nobody has found it gone."""
    return tx.scalar(select(workers.c.beat).where(workers.c.worker_id == worker_id)) is not None


def every(tx: Tx) -> list[Worker]:
    """All workers that nobody has found gone, oldest first."""
    rows = tx.execute(select(workers).order_by(workers.c.started_at, workers.c.worker_id))
    return [Worker(r.worker_id, r.role, r.place, r.beat, r.started_at, r.seen_at) for r in rows]
