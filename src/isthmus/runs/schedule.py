"""When a sync is due: from a text such as `every 5m` or a cron line to moments. Pure: nobody asks a clock here.

What the clocks do twice a year:

* `hourly`, `daily`, `weekly` and `every …` count hours that pass, in UTC. Nothing is ever skipped or repeated.
* A cron line means the wall clock of its zone. A moment that is skipped comes when the clocks have been put forward;
  one that would come twice comes the first time. So once a day is once a day.
* A cron line that runs in every hour means hours that pass: a skipped hour has no moments, and a repeated hour has its
  moments twice. A line that begins with a star repeats its moments in a repeated hour too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from functools import cache, cached_property
from hashlib import blake2b
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from isthmus.model.errors import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
NAMED = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}
LONGEST_DELAY = timedelta(minutes=5)
LONGEST_CRON_DELAY = timedelta(seconds=30)
"""Whoever writes a cron line means that minute."""
LEAST_FRESHNESS_LIMIT_S = 900
HINT = "write hourly, daily, weekly, manual, every 5m, every 2h, every 1d, or a cron line: 0 6 * * 1-5 Europe/Berlin"

_UNITS = {"m": (60, "minute"), "h": (3600, "hour"), "d": (86_400, "day")}
_A_YEAR = datetime(2024, 1, 1)  # any: what is usual for a cron line does not depend on it
_LONGEST_REPEAT = timedelta(hours=3)  # more than clocks are ever put back at once


@dataclass(frozen=True)
class Schedule:
    """A schedule that was understood. `text` says the same as what was given, always in the same way.

    It is one of three: every so often, a cron line in a zone, or neither, which is manual.
    """

    text: str
    every: timedelta | None = None
    cron: str = ""
    zone: str = "UTC"

    def following(self, after: datetime, key: str) -> datetime | None:
        """The first moment after `after` at which the sync `key` is due, in UTC; None if only a person starts it.

        Every sync has a start delay of its own, the same each time, so that a thousand hourly ones do not begin
        together: up to a tenth of the time between two runs, 5 minutes at most, 30 seconds for a cron line. Whoever
        asks for the first moment after now therefore gets one run for any number of missed ones.
        """
        delay = self._delay(key)
        tick = self._tick(after.astimezone(UTC) - delay)
        return None if tick is None else tick + delay

    @cached_property
    def period_s(self) -> int | None:
        """How long it is usually between two runs, for a cron line at most. None for manual."""
        if self.every is not None:
            return int(self.every.total_seconds())
        return int(_gaps(self.cron)[1].total_seconds()) if self.cron else None

    @cached_property
    def words(self) -> str:
        """The schedule as a person reads it."""
        if self.cron:
            said = CronSim(self.cron, _A_YEAR).explain().replace(" through ", " to ")
            return f"{said[0].lower()}{said[1:]}, {self.zone}"
        if self.every is None:
            return "only when started by hand"
        if self.text == "weekly":
            return "every Monday at 00:00, UTC"
        seconds = int(self.every.total_seconds())
        if seconds == 86_400:
            return "every day at 00:00, UTC"
        size, unit = next(u for u in reversed(_UNITS.values()) if seconds % u[0] == 0)
        count = seconds // size
        return f"every {unit}" if count == 1 else f"every {count} {unit}s"

    def _delay(self, key: str) -> timedelta:
        if self.every is not None:
            most = min(self.every / 10, LONGEST_DELAY)
        elif self.cron:
            most = min(_gaps(self.cron)[0] / 10, LONGEST_CRON_DELAY)
        else:
            return timedelta(0)
        share = int.from_bytes(blake2b(key.encode(), digest_size=6).digest(), "big")
        return timedelta(microseconds=(most // timedelta(microseconds=1)) * share >> 48)

    def _tick(self, after: datetime) -> datetime | None:
        """The first moment after `after` without a delay."""
        if self.every is not None:
            anchor = MONDAY if self.text == "weekly" else EPOCH
            return anchor + ((after - anchor) // self.every + 1) * self.every
        return self._cron_tick(after) if self.cron else None

    def _cron_tick(self, after: datetime) -> datetime | None:
        zone = _zone(self.zone)
        local = after.astimezone(zone)
        wall, repeats = local.replace(tzinfo=None, fold=0), self._repeats
        if repeats:  # if the clocks are put back soon, walls that were before now come again
            wall -= max(timedelta(0), _offset(local) - _offset((after + _LONGEST_REPEAT).astimezone(zone)))
        best: datetime | None = None
        for tick in CronSim(self.cron, wall):
            moments = list(_moments(tick, zone, repeats=repeats, skips=self._every_hour))
            best = min((m for m in [best, *moments] if m is not None and m > after), default=None)
            if best is not None and moments and moments[0] >= best:
                break
        return best

    @cached_property
    def _every_hour(self) -> bool:
        return len(CronSim(self.cron, _A_YEAR).hours) == 24

    @cached_property
    def _repeats(self) -> bool:
        return self._every_hour or self.cron.startswith("*")


MANUAL = Schedule("manual")


def read(text: str) -> Schedule:
    """The schedule that a person wrote. Raises InvalidInput if it is none, or one that never comes."""
    words = text.split()
    plain = " ".join(words).lower()
    if plain == "manual":
        return MANUAL
    if plain in NAMED:
        return Schedule(plain, every=NAMED[plain])
    if len(words) == 2 and words[0].lower() == "every":
        return Schedule(plain, every=timedelta(seconds=_every_s(text, words[1])))
    if len(words) in (5, 6) and len(text) <= 200:
        zone = _zone_name(text, words[5]) if len(words) == 6 else "UTC"
        cron = " ".join(words[:5]).upper()
        _check_cron(text, cron)
        return Schedule(cron if zone == "UTC" else f"{cron} {zone}", cron=cron, zone=zone)
    raise InvalidInput(f"the schedule {_short(text)} is not understood", hint=HINT)


def freshness_limit_s(schedule: Schedule, given: int | None) -> int | None:
    """How far behind a sync may be: as `given`, else three times the usual time between two runs.

    At least a quarter of an hour, for one run may take that long. None, no limit, for a manual one without its own.
    """
    if given is not None or schedule.period_s is None:
        return given
    return max(3 * schedule.period_s, LEAST_FRESHNESS_LIMIT_S)


def length_s(text: str) -> int:
    """The seconds in "90m", "3h" or "2d". Raises InvalidInput for anything else."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", text.strip().lower())
    if not found:
        raise InvalidInput(f"{_short(text)} is not a length of time", hint="write 90m, 3h or 2d")
    return int(found[1]) * _UNITS[found[2]][0]


def _every_s(text: str, length: str) -> int:
    try:
        return length_s(length)
    except InvalidInput:
        raise InvalidInput(f"the schedule {_short(text)} is not understood", hint=HINT) from None


def _check_cron(text: str, cron: str) -> None:
    try:
        _gaps(cron)
    except StopIteration:
        raise _never(text) from None
    except CronSimError as e:
        wrong = str(e).removeprefix("Bad ")
        if wrong == "day-of-month" and _day_exists(cron):
            raise _never(text) from None
        raise InvalidInput(f"the {wrong} of the cron line {_short(text)} is not understood", hint=HINT) from None


def _day_exists(cron: str) -> bool:
    """Whether the day is one of a longer month: then it is only the months that have no such day."""
    minute, hour, day, _, weekday = cron.split()
    try:
        CronSim(f"{minute} {hour} {day} 1 {weekday}", _A_YEAR)
    except CronSimError:
        return False
    return True


def _never(text: str) -> InvalidInput:
    return InvalidInput(f"the cron line {_short(text)} never comes", hint="its month has no such day")


@cache
def _gaps(cron: str) -> tuple[timedelta, timedelta]:
    """The smallest and the largest time between neighbouring moments of a cron line, in a year or two moments.

    From its times of the day and its days, not from all the moments: there may be half a million. Raises CronSimError
    for a line that is none, StopIteration for one that never comes.
    """
    line = CronSim(cron, _A_YEAR)
    times = sorted(timedelta(hours=h, minutes=m) for h in line.hours for m in line.minutes)
    inside = [later - earlier for earlier, later in pairwise(times)]
    first = f"{times[0].seconds // 60 % 60} {times[0].seconds // 3600}"
    ticks = CronSim(" ".join([first, *cron.split()[2:]]), _A_YEAR - timedelta(seconds=1))
    days = [next(ticks), next(ticks)]
    while days[-1] - days[0] < timedelta(days=366):
        days.append(next(ticks))
    between = [later - earlier - (times[-1] - times[0]) for earlier, later in pairwise(days)]
    return min(inside + between), max(inside + between)


def _moments(wall: datetime, zone: tzinfo, *, repeats: bool, skips: bool) -> Iterator[datetime]:
    """When a clock in `zone` shows `wall`: mostly once; if it is put back over it, twice; if put forward, not at all.

    Only the first time unless it `repeats`, and when the gap is over unless it `skips`.
    """
    if _missing(wall, zone):
        if skips:
            return
        while _missing(wall, zone):
            wall += timedelta(minutes=1)
    first, again = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    yield first
    if repeats and again > first:
        yield again


def _missing(wall: datetime, zone: tzinfo) -> bool:
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) != wall


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta(0)


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _zone_name(text: str, name: str) -> str:
    """The IANA name, as it is spelt there. Raises InvalidInput if there is none."""
    known = _zones()
    found = known.get(name.lower())
    if found is None:
        close = get_close_matches(name.lower(), known, n=1)
        meant = f"did you mean {known[close[0]]}" if close else "write an IANA name such as Europe/Berlin"
        raise InvalidInput(
            f"{_short(name)} in the schedule {_short(text)} is not a time zone",
            hint=f"{meant}; a cron line has five fields and may end with a time zone",
        )
    return found


@cache
def _zones() -> dict[str, str]:
    utc = dict.fromkeys(("utc", "etc/utc", "z"), "UTC")
    return {name.lower(): name for name in sorted(available_timezones())} | utc


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
