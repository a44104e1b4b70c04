"""How long to wait before the next try, and when to stop trying. Pure: chance is handed in."""

from __future__ import annotations

FIRST_S = 2.0
LONGEST_S = 900.0

MAX_TRIES = 12
"""The transient error in a row with which a run fails. Any chunk that is delivered in between starts the count again.

The eleven waits before it add up to 47 minutes at most and 23 at least, about 35: a warehouse that is restarted or out
of reach for that long is no reason to call anybody."""

MAX_FAILURES = 5
"""The failed run in a row with which a sync pauses itself, until a person resumes it.

With transient errors alone that is after about three hours of trying for a sync that is due every half hour or more
often, and after the better part of five hours for an hourly one. An error that trying again cannot help fails a run at
once: then it is four times the time between two runs."""

MAX_DEATHS = 10
"""The worker that died at one and the same piece of work with which the run fails: it may be what kills them.

A worker counts as dead when its beat has not been seen to go on for a while, so this is a matter of minutes at the
least; whoever restarts a machine ten times during one run has to start that run again."""


FIRST_AT_DOOR_S = 600.0
LONGEST_AT_DOOR_S = 3600.0


def door_delay_s(tries: int, chance: float) -> float:
    """How long a connection that nobody can enter is left alone after `tries` in vain: up to 10 minutes, then up to 20,
    40 and 60, less up to half by chance.

    One sync tries, once; where a password is wrong, more would have the account locked.
    """
    longest = min(LONGEST_AT_DOOR_S, FIRST_AT_DOOR_S * 2.0 ** min(max(tries, 1) - 1, 30))
    return longest * (0.5 + chance / 2)


def delay_s(tries: int, chance: float) -> float:
    """How long to wait after `tries` transient errors in a row: 2 s after the first, then twice as long each time.

    900 s at most. `chance`, evenly from [0, 1), takes off up to half, so that what failed together does not come back
    together.
    """
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(max(tries, 1) - 1, 30))
    return longest * (0.5 + chance / 2)
