"""The cursor of an import: how far a relation has been read. Pure, and of bounded size whatever the relation holds.

A *pass* reads every row from the look-back before `at` on. What it will have reached, and what the end of the relation
looked like, are asked of the warehouse before its first row is read and kept until its last one has landed: rows that
come meanwhile, anywhere, then make the end look different to the next pass. So nothing is skipped, also not by a pass
that was cut off and went on much later; rows that are read again are known by their identity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class Seen:
    """What the end of the relation looked like, from `start` on: equal to another look, nothing has changed."""

    start: datetime | None
    rows: int
    checksum: int
    without: int  # rows whose changed-at is NULL, or no time we can hold
    without_checksum: int = 0


@dataclass(frozen=True)
class Cursor:
    """`at`: every row up to then was read. `seen`: the end as the last whole pass found it.

    While a pass is under way: `goal` and `then` are what `at` and `seen` are to be, and `position` is how far it has
    come (rows of that very moment may be missing).
    """

    at: datetime | None = None
    seen: Seen | None = None
    position: datetime | None = None
    goal: datetime | None = None
    then: Seen | None = None

    @property
    def under_way(self) -> bool:
        return self.then is not None

    def start(self, look_back_s: int, *, by_day: bool = False) -> datetime | None:
        """Where a pass begins; None: at the beginning. `by_day`: changed-at is a date, all of a day is of one time."""
        start = _before(self.at, look_back_s)
        return start.replace(hour=0, minute=0, second=0, microsecond=0) if start and by_day else start

    def begun(self, goal: datetime | None, then: Seen) -> Cursor:
        """A pass is under way."""
        return replace(self, position=None, goal=goal, then=then)

    def moved(self, position: datetime | None) -> Cursor:
        """The rows up to `position` have landed."""
        if position is None or (self.position is not None and position < self.position):
            return self
        return replace(self, position=position)

    def finished(self) -> Cursor:
        """All rows of the pass have landed."""
        return Cursor(at=self.goal, seen=self.then)

    def as_dict(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> Cursor:
        values = values or {}
        moments = {name: _moment(values.get(name)) for name in ("at", "position", "goal")}
        return cls(**moments, seen=_seen(values.get("seen")), then=_seen(values.get("then")))


def goal(at: datetime | None, last: datetime | None, now: datetime) -> datetime | None:
    """What a pass will have reached: the newest row, but never beyond the warehouse's present: a row that is dated in
    the future must not hide those that come until then."""
    reached = [moment for moment in (at, last) if moment is not None]
    return min(max(reached), now) if reached else None


def _before(moment: datetime | None, seconds: int) -> datetime | None:
    if moment is None:
        return None
    try:
        return moment - timedelta(seconds=seconds)
    except OverflowError:
        return None


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case dict():
            # A checksum has more digits than other readers of JSON keep.
            return {k: str(v) if k.endswith("checksum") else _plain(v) for k, v in value.items()}
    return value


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _seen(values: dict[str, Any] | None) -> Seen | None:
    if values is None:
        return None
    nowhere = values["without"], int(values.get("without_checksum", 0))
    return Seen(_moment(values["start"]), values["rows"], int(values["checksum"]), *nowhere)
