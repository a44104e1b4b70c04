"""What connections were asked and answered, kept for audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import insert, select

from isthmus.ledger.database import Tx
from isthmus.ledger.schema import checks
from isthmus.model.checks import Check


def keep(tx: Tx, connection_id: str, answers: Sequence[Check], *, at: datetime) -> None:
    """Keep the answers of one check of a connection."""
    tx.execute(insert(checks).values(connection_id=connection_id, at=at, answers=[asdict(a) for a in answers]))


def of(tx: Tx, connection_id: str, *, limit: int = 20) -> list[tuple[datetime, tuple[Check, ...]]]:
    """The newest checks of a connection, newest first."""
    rows = tx.execute(
        select(checks.c.at, checks.c.answers)
        .where(checks.c.connection_id == connection_id)
        .order_by(checks.c.at.desc(), checks.c.check_id.desc())
        .limit(limit)
    )
    return [(row.at, tuple(Check(**answer) for answer in row.answers)) for row in rows]
