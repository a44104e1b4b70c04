"""What connections were asked and answered, kept for audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select

from isthmus.ledger.database import Tx
from isthmus.ledger.schema import checks
from isthmus.model.checks import Check


class Asked(StrEnum):
    """Who asked."""

    PERSON = "person"
    NIGHTLY = "nightly"


@dataclass(frozen=True)
class Answers:
    """What a connection answered at one time, in the order of its questions."""

    at: datetime
    asked: Asked
    answers: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(answer.passed for answer in self.answers)


def keep(tx: Tx, connection_id: str, answers: Sequence[Check], *, at: datetime, asked: Asked = Asked.PERSON) -> None:
    """Keep the answers of one check of a connection."""
    kept = [asdict(a) for a in answers]
    tx.execute(insert(checks).values(connection_id=connection_id, at=at, answers=kept, asked=asked))


def of(tx: Tx, connection_id: str, *, limit: int = 20) -> list[Answers]:
    """The newest checks of a connection, newest first."""
    rows = tx.execute(
        select(checks.c.at, checks.c.answers, checks.c.asked)
        .where(checks.c.connection_id == connection_id)
        .order_by(checks.c.at.desc(), checks.c.check_id.desc())
        .limit(limit)
    )
    return [Answers(row.at, Asked(row.asked), tuple(map(_check, row.answers))) for row in rows]


def last_answers(tx: Tx, connection_id: str) -> dict[str, Check]:
    """The newest answer to each question. A check may end early, so they can be of several times."""
    known: dict[str, Check] = {}
    for one in of(tx, connection_id):
        for answer in one.answers:
            known.setdefault(answer.question, answer)
    return known


def _check(kept: dict[str, Any]) -> Check:
    """An answer as it was kept, by this version or by one that knew fewer or more of it."""
    return Check(**{name: value for name, value in kept.items() if name in _KNOWN})


_KNOWN = {field.name for field in fields(Check)}
