"""When the checks of a connection are repeated: once a night, not all at the same time. Pure: nobody asks a clock."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from hashlib import blake2b

SPREAD = timedelta(hours=2)
"""The checks of all connections begin within this time, those of one always at the same moment of it."""

_DAY = timedelta(days=1)


def is_due(key: str, hour: int, *, last: datetime, now: datetime) -> bool:
    """Whether the checks of the connection `key` are to be repeated now.

    `last` is when they were begun last, or when the connection was made. Nights that were missed become one. A `last`
    far ahead is of a clock that was wrong.
    """
    return last < _moment(key, hour, now) or last > now + _DAY


def _moment(key: str, hour: int, now: datetime) -> datetime:
    """The last moment for it until now."""
    share = int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64
    today = datetime.combine(now.astimezone(UTC).date(), time(hour), UTC) + share * SPREAD
    return next(m for m in (today, today - _DAY, today - 2 * _DAY) if m <= now)  # a night may reach over midnight
