"""Waiting longer each time, never all at once, and not for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.runs.retry import LONGEST_S, MAX_DEATHS, MAX_FAILURES, MAX_TRIES, delay_s

ALMOST_ONE = 1 - 2**-53


def test_the_first_wait_is_short_and_each_is_twice_as_long_up_to_a_quarter_of_an_hour() -> None:
    assert [round(delay_s(n, ALMOST_ONE)) for n in range(1, 13)] == [
        *(2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900)
    ]


@given(tries=st.integers(0, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_chance_takes_off_half_at_most(tries: int, chance: float) -> None:
    longest = min(LONGEST_S, 2.0 ** min(max(tries, 1), 20))
    assert longest / 2 <= delay_s(tries, chance) <= longest
    assert delay_s(tries, 0) == longest / 2


def test_the_limits_add_up_to_what_their_words_say() -> None:
    waits = [delay_s(n, ALMOST_ONE) for n in range(1, MAX_TRIES)]
    assert len(waits) == 11 and sum(waits) / 60 == pytest.approx(47, abs=0.5)
    assert sum(delay_s(n, 0) for n in range(1, MAX_TRIES)) / 60 == pytest.approx(23.5, abs=0.5)
    average = sum(delay_s(n, 0.5) for n in range(1, MAX_TRIES)) / 3600
    assert MAX_FAILURES * average == pytest.approx(3, abs=0.1)
    assert 4.5 < MAX_FAILURES - 1 + average < 5
    assert MAX_DEATHS == 10
