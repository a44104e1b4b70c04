"""When the checks of connections are repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from isthmus.runs import night

MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
HOUR = timedelta(hours=1)


def first_due(key: str, *, last: datetime, hour: int = 2) -> datetime:
    """The first minute from `last` on at which it is due."""
    return next(m for n in range(3000) if night.is_due(key, hour, last=last, now=(m := last + timedelta(minutes=n))))


def test_the_checks_of_many_connections_are_spread_over_two_hours_of_the_night() -> None:
    moments = [first_due(f"con_{n}", last=MIDNIGHT) for n in range(200)]
    assert min(moments) >= MIDNIGHT + 2 * HOUR and max(moments) <= MIDNIGHT + 4 * HOUR + timedelta(minutes=1)
    busiest = max(moments.count(moment) for moment in moments)
    assert busiest <= 10


def test_it_is_once_a_night_at_the_same_moment() -> None:
    first = first_due("con_a", last=MIDNIGHT)
    assert not night.is_due("con_a", 2, last=first, now=first + timedelta(hours=23))
    assert first_due("con_a", last=first) == first + timedelta(days=1)


def test_nights_that_were_missed_become_one_and_come_at_once() -> None:
    back = MIDNIGHT + timedelta(days=9, hours=15)
    assert night.is_due("con_a", 2, last=MIDNIGHT, now=back)
    assert not night.is_due("con_a", 2, last=back, now=back + HOUR)


def test_a_night_may_reach_over_midnight() -> None:
    moments = [first_due(f"con_{n}", last=MIDNIGHT - 12 * HOUR, hour=23) for n in range(50)]
    assert min(moments) < MIDNIGHT < max(moments) <= MIDNIGHT + HOUR + timedelta(minutes=1)


def test_a_clock_that_was_wrong_keeps_nobody_from_asking_for_ever() -> None:
    assert night.is_due("con_a", 2, last=MIDNIGHT + timedelta(days=400), now=MIDNIGHT)
