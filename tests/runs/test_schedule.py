"""Schedules: what a person may write, and when the next run is due, also when the clocks change."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isthmus.model.errors import InvalidInput
from isthmus.runs.schedule import MANUAL, Schedule, freshness_limit_s, length_s, read

SUMMER = datetime(2026, 7, 1, 10, 20, tzinfo=UTC)  # a Wednesday
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

PATIENT = settings(deadline=None)  # the first look at a cron line or a zone is slower than the next

PLACES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]  # the last moves its clocks by half an hour
CHANGES = {
    "Europe/Berlin": [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)],
    "America/New_York": [datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)],
    "Australia/Lord_Howe": [datetime(2026, 10, 3, 15, 30, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC)],
}
"""When the clocks are put forward, and when back, in 2026."""

LINES = [
    *("* * * * *", "*/5 * * * *", "7,37 * * * *", "0 * * * *", "30 * * * *"),
    *("0 6 * * 1-5", "30 2 * * *", "15,45 1-3 * * *", "*/20 2 * * *", "0 */2 * * *", "59 23 * * *", "0 0 * * *"),
    *("0 12 1 * *", "0 3 29 2 *", "0 9 L * *", "0 4 13 * 5"),
]
PLAIN = ["hourly", "daily", "weekly", "every 1m", "every 5m", "every 7m", "every 2h", "every 1d", "every 90d"]

schedules = st.sampled_from(
    [read(text) for text in PLAIN] + [read(f"{line} {zone}") for line in LINES for zone in ["UTC", *PLACES]]
)
near_a_change = st.builds(
    lambda change, apart: change + apart,
    st.sampled_from([moment for both in CHANGES.values() for moment in both]),
    st.timedeltas(-3 * HOUR, 3 * HOUR),
)
any_time = st.datetimes(datetime(2001, 1, 1), datetime(2060, 1, 1)).map(lambda d: d.replace(tzinfo=UTC))
moments = near_a_change | any_time
keys = st.sampled_from(["sync_a", "sync_b", "sync_c"])


def ticks(text: str, start: datetime, end: datetime) -> list[datetime]:
    """All moments of a schedule in (`start`, `end`], without the start delay."""
    schedule, delay = read(text), delay_of(read(text))
    found = []
    while (tick := schedule.following(start + delay, "k")) is not None and tick - delay <= end:
        start = tick - delay
        found.append(start)
    return found


def delay_of(schedule: Schedule, key: str = "k") -> timedelta:
    """The start delay: what a moment is later than a whole minute."""
    following = schedule.following(SUMMER, key)
    assert following is not None
    if schedule.cron:
        return following - following.replace(second=0, microsecond=0)
    period = timedelta(seconds=schedule.period_s or 0)
    anchor = datetime(1970, 1, 5 if schedule.text == "weekly" else 1, tzinfo=UTC)
    return (following - anchor) % period


def walls(text: str, zone: str, day: datetime) -> list[str]:
    """What the clocks of the place show at the moments of a schedule on a day there."""
    there = ZoneInfo(zone)
    start = datetime(day.year, day.month, day.day, tzinfo=there).astimezone(UTC)
    end = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=there).astimezone(UTC)
    return [f"{t.astimezone(there):%H:%M}" for t in ticks(f"{text} {zone}", start - MINUTE, end)]


# What a person may write.


@pytest.mark.parametrize(
    ("written", "text", "words"),
    [
        ("hourly", "hourly", "every hour"),
        (" Daily ", "daily", "every day at 00:00, UTC"),
        ("weekly", "weekly", "every Monday at 00:00, UTC"),
        ("MANUAL", "manual", "only when started by hand"),
        ("every  5m", "every 5m", "every 5 minutes"),
        ("every 1m", "every 1m", "every minute"),
        ("every 2h", "every 2h", "every 2 hours"),
        ("every 90m", "every 90m", "every 90 minutes"),
        ("Every 1d", "every 1d", "every day at 00:00, UTC"),
        ("0 6 * *  1-5 Europe/Berlin", "0 6 * * 1-5 Europe/Berlin", "at 06:00 on Monday to Friday, Europe/Berlin"),
        ("0 6 * * mon-fri", "0 6 * * MON-FRI", "at 06:00 on Monday to Friday, UTC"),
        ("0 6 * * * europe/berlin", "0 6 * * * Europe/Berlin", "at 06:00 every day, Europe/Berlin"),
        ("30 * * * * UTC", "30 * * * *", "at minute 30 of every hour, UTC"),
    ],
)
def test_what_is_understood_is_said_in_one_way_and_in_words(written: str, text: str, words: str) -> None:
    schedule = read(written)
    assert (schedule.text, schedule.words) == (text, words)
    assert read(schedule.text) == schedule


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "not understood"),
        ("sometimes", "not understood"),
        ("every", "not understood"),
        ("every 0m", "not understood"),
        ("every 30s", "not understood"),
        ("every five minutes", "not understood"),
        ("every 10000d", "not understood"),
        ("@daily", "not understood"),
        ("60 * * * *", "minute"),
        ("* * * 13 *", "month"),
        ("* * 32 * *", "day-of-month"),
        ("* * * * MONDAY", "day-of-week"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 2,4,6,9,11 *", "never comes"),
        ("0 6 * * * Europe/Berln", "Europe/Berlin"),
        ("0 6 * * * right/Europe/Berlin", "time zone"),
        ("0 6 * * * ../../etc/passwd", "time zone"),
        ("0 0 6 * * 1", "five fields"),
        ("1 2 3 4 5 6 7", "not understood"),
        ("1" * 5000 + " * * * *", "not understood"),
    ],
)
def test_anything_else_is_an_error_that_says_what_to_write(written: str, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(written)
    assert said in f"{raised.value.summary} {raised.value.hint}"
    assert raised.value.hint and len(raised.value.summary) < 250


@PATIENT
@given(text=st.text(st.sampled_from("0123456789*/,-#LWMONJAN every mhdUTC²"), max_size=30) | st.text(max_size=20))
def test_no_text_breaks_anything(text: str) -> None:
    try:
        schedule = read(text)
    except InvalidInput:
        return
    assert read(schedule.text) == schedule and schedule.words
    assert schedule == MANUAL or schedule.following(SUMMER, "k")


def test_a_length_of_time_is_minutes_hours_or_days() -> None:
    assert [length_s(t) for t in ("1m", "90m", " 3H", "2d")] == [60, 5400, 10_800, 172_800]
    for wrong in ("", "0m", "3", "3s", "-3h", "1.5h", "12345m", "3 hours", "٣h"):
        with pytest.raises(InvalidInput, match="length of time"):
            length_s(wrong)


# When the next run is due.


def test_manual_is_never_due() -> None:
    assert read("manual").following(SUMMER, "k") is None


def test_moments_in_utc() -> None:
    end = SUMMER + 14 * DAY
    assert ticks("hourly", SUMMER, end)[:2] == [datetime(2026, 7, 1, h, tzinfo=UTC) for h in (11, 12)]
    assert ticks("every 7m", SUMMER, end)[0].timestamp() % 420 == 0
    assert ticks("daily", SUMMER, end)[0] == datetime(2026, 7, 2, tzinfo=UTC)
    assert ticks("weekly", SUMMER, end) == [datetime(2026, 7, d, tzinfo=UTC) for d in (6, 13)]
    assert ticks("0 6 * * 1-5 Europe/Berlin", SUMMER, end)[:3] == [
        datetime(2026, 7, d, 4, tzinfo=UTC) for d in (2, 3, 6)
    ]


@PATIENT
@given(schedule=schedules, after=moments, key=keys)
def test_the_next_moment_is_after_now_in_utc_and_time_goes_on(schedule: Schedule, after: datetime, key: str) -> None:
    one = schedule.following(after, key)
    assert one is not None and one > after and one.tzinfo is UTC
    two = schedule.following(one, key)
    assert two is not None and two > one


@PATIENT
@given(schedule=schedules, after=moments, share=st.floats(0, 1), key=keys)
def test_between_two_moments_everybody_gets_the_same_next_one(
    schedule: Schedule, after: datetime, share: float, key: str
) -> None:
    one = schedule.following(after, key)
    assert one is not None
    between = after + (one - after) * share
    assume(between < one)
    assert schedule.following(between, key) == one
    assert schedule.following(one - timedelta(microseconds=1), key) == one


@PATIENT
@given(schedule=schedules, after=moments, zone=st.sampled_from(PLACES))
def test_the_zone_in_which_now_is_said_does_not_matter(schedule: Schedule, after: datetime, zone: str) -> None:
    assert schedule.following(after.astimezone(ZoneInfo(zone)), "k") == schedule.following(after, "k")


def test_a_thousand_missed_moments_are_one_run() -> None:
    late = SUMMER + 1000 * MINUTE
    following = read("every 1m").following(late, "k")
    assert following is not None and late < following <= late + MINUTE


# Twice a year.


@pytest.mark.parametrize("zone", PLACES)
@pytest.mark.parametrize("line", LINES[:5])
def test_a_line_of_every_hour_counts_hours_that_pass(line: str, zone: str) -> None:
    """Against the plainest way to say it: every minute whose wall clock fits."""
    minutes = line.split()[0]
    fitting = {"*": range(60), "*/5": range(0, 60, 5), "7,37": (7, 37), "0": (0,), "30": (30,)}[minutes]
    for change in CHANGES[zone]:
        start = change - 4 * HOUR
        expected = [
            moment
            for n in range(1, 8 * 60 + 1)
            if (moment := start + n * MINUTE).astimezone(ZoneInfo(zone)).minute in fitting
        ]
        assert ticks(f"{line} {zone}", start, start + 8 * HOUR) == expected


@pytest.mark.parametrize("zone", [*PLACES, "America/Havana", "Africa/Cairo", "Antarctica/Troll"])
@pytest.mark.parametrize("time", ["0 0", "30 0", "30 1", "0 2", "15 2", "30 2", "59 2", "0 3", "0 23", "0 */24"])
def test_once_a_day_is_once_a_day(time: str, zone: str) -> None:
    there = ZoneInfo(zone)
    start = datetime(2025, 12, 31, 23, 59, tzinfo=there).astimezone(UTC)
    end = datetime(2026, 12, 31, 23, 59, tzinfo=there).astimezone(UTC)
    found = ticks(f"{time} * * * {zone}", start, end)
    days = Counter(t.astimezone(there).date() for t in found)
    assert len(days) == 365 and set(days.values()) == {1}


def test_a_moment_that_is_skipped_comes_when_the_gap_is_over() -> None:
    forward = CHANGES["Europe/Berlin"][0]
    assert walls("30 2 * * *", "Europe/Berlin", forward) == ["03:00"]
    assert walls("0,20,40 2,3 * * *", "Europe/Berlin", forward) == ["03:00", "03:20", "03:40"]
    assert walls("*/20 2 * * *", "Europe/Berlin", forward) == ["03:00"]
    assert walls("30 2 * * *", "America/New_York", CHANGES["America/New_York"][0]) == ["03:00"]
    assert walls("10 2 * * *", "Australia/Lord_Howe", CHANGES["Australia/Lord_Howe"][0] + 12 * HOUR) == ["02:30"]


def test_a_moment_that_comes_twice_counts_the_first_time() -> None:
    back = CHANGES["Europe/Berlin"][1]
    assert ticks("30 2 * * * Europe/Berlin", back - 3 * HOUR, back + 3 * HOUR) == [back - HOUR / 2]
    second_time = back + 10 * MINUTE  # 02:10 again
    assert ticks("30 2 * * * Europe/Berlin", second_time, second_time + 3 * HOUR) == []
    assert walls("15,45 1-3 * * *", "Europe/Berlin", back) == ["01:15", "01:45", "02:15", "02:45", "03:15", "03:45"]


def test_a_line_that_begins_with_a_star_goes_on_in_a_repeated_hour() -> None:
    assert walls("*/30 1-2 * * *", "Europe/Berlin", CHANGES["Europe/Berlin"][1]) == [
        *("01:00", "01:30", "02:00", "02:30", "02:00", "02:30")
    ]
    lord_howe = CHANGES["Australia/Lord_Howe"][1] + 12 * HOUR
    assert walls("*/15 1 * * *", "Australia/Lord_Howe", lord_howe) == [
        *("01:00", "01:15", "01:30", "01:45", "01:30", "01:45")
    ]


def test_a_day_without_an_hour_still_has_all_moments_of_the_others() -> None:
    """The clocks of Lord Howe go from 02:00 to 02:30: who walks by whole hours misses the first half of 3 o'clock."""
    lord_howe = CHANGES["Australia/Lord_Howe"][0] + 12 * HOUR
    assert walls("*/15 3 * * *", "Australia/Lord_Howe", lord_howe) == ["03:00", "03:15", "03:30", "03:45"]
    assert walls("*/15 2-3 * * *", "Australia/Lord_Howe", lord_howe) == [
        *("02:30", "02:45", "03:00", "03:15", "03:30", "03:45")
    ]


# Not all at once.


@PATIENT
@given(schedule=schedules, key=st.text(min_size=1, max_size=40))
def test_a_start_delay_is_short_and_always_the_same(schedule: Schedule, key: str) -> None:
    delay, period = delay_of(schedule, key), timedelta(seconds=schedule.period_s or 0)
    assert timedelta(0) <= delay < min(period / 10, timedelta(seconds=30) if schedule.cron else 5 * MINUTE)
    later = schedule.following(SUMMER + 400 * DAY, key)
    assert later is not None
    alone = later - delay
    assert alone.second == alone.microsecond == 0
    assert delay_of(read(schedule.text), key) == delay


@pytest.mark.parametrize(("text", "most_s"), [("hourly", 300), ("every 5m", 30), ("daily", 300), ("0 6 * * *", 30)])
def test_a_thousand_syncs_do_not_start_together(text: str, most_s: int) -> None:
    schedule = read(text)
    delays = [delay_of(schedule, f"sync_{n}").total_seconds() for n in range(1000)]
    tenths = Counter(int(delay / most_s * 10) for delay in delays)
    assert set(tenths) == set(range(10)) and max(tenths.values()) < 150
    assert len(set(delays)) > 990


# How far behind is too far.


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("hourly", HOUR),
        ("weekly", 7 * DAY),
        ("every 5m", 5 * MINUTE),
        ("*/5 * * * *", 5 * MINUTE),
        ("0,10 * * * *", 50 * MINUTE),
        ("0 6 * * *", DAY),
        ("0 6 * * 1-5", 3 * DAY),
        ("* 8-18 * * *", 13 * HOUR + MINUTE),
        ("0 0 1 * *", 31 * DAY),
        ("0 0 1 1 *", 366 * DAY),
        ("0 0 29 2 *", 1461 * DAY),
    ],
)
def test_the_period_is_the_longest_time_between_two_runs(text: str, period: timedelta) -> None:
    assert read(text).period_s == period.total_seconds()


@PATIENT
@given(schedule=schedules.filter(lambda s: s.cron != "0 3 29 2 *"), after=any_time)
def test_the_next_moment_is_never_further_than_the_period(schedule: Schedule, after: datetime) -> None:
    one = schedule.following(after, "k")
    two = schedule.following(one, "k") if one else None
    assert one and two and schedule.period_s
    slack = 2 * HOUR if schedule.cron else timedelta(0)  # the clocks
    assert two - one <= timedelta(seconds=schedule.period_s) + slack


def test_a_limit_is_as_given_or_three_periods_and_never_too_short() -> None:
    assert freshness_limit_s(read("hourly"), None) == 3 * 3600
    assert freshness_limit_s(read("every 1m"), None) == 900
    assert freshness_limit_s(read("every 1m"), 60) == 60
    assert freshness_limit_s(MANUAL, None) is None
    assert freshness_limit_s(MANUAL, 7200) == 7200
