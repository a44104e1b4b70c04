"""Room: which lanes a worker is at, so that one connection's never keep another connection's from their turn.

A worker has `slots` for lanes. Four rules make sure that nobody waits for long for a warehouse that is not his own:

* the first lane of a connection may come in addition, up to `CONNECTIONS` times the slots in all;
* a lane that has not moved for `STILL_S` waits for its warehouse: it costs next to nothing, and does not count;
* whose connection has fewest lanes here is next, then who has waited for longest;
* where a connection has none here for `PATIENT_S`, another one leaves one of its own at the next chunk.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

CONNECTIONS = 4
"""Lanes of different connections side by side, as a multiple of the slots: a lane takes memory, so there is an end."""

STILL_S = 15.0
"""A lane counts as still when no chunk of it was done for so long."""

PATIENT_S = 10.0
"""How long a connection has none of its lanes here before another one is to make room, and how long one at least stays:
to sign in again costs something."""

_LOOK_S = 0.5


@dataclass(eq=False)
class Turn:
    """A lane that is carried out here. Say `moved` after each chunk, and `leave` it at the end."""

    connection_id: str
    _room: Room = field(repr=False)
    entered_at: float
    moved_at: float

    @property
    def is_wanted(self) -> bool:
        """Whether this lane is to leave between two chunks, for one of another connection."""
        return self._room.wants(self)

    def moved(self) -> None:
        self.moved_at = self._room.monotonic()

    def leave(self) -> None:
        self._room.leave(self)


@dataclass(eq=False)
class _Wish:
    connection_id: str
    number: int
    since: float


class Room:
    """The lanes of one worker, each on a thread of its own."""

    def __init__(self, slots: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._slots, self.monotonic = slots, monotonic
        self._changed = threading.Condition()
        self._turns: list[Turn] = []
        self._wishes: list[_Wish] = []
        self._number = 0

    def enter(self, connection_id: str, *, gives_up: Callable[[float], bool]) -> Turn | None:
        """Wait for a turn. None if it `gives_up`, which is asked from time to time with the seconds waited so far."""
        began = self.monotonic()
        with self._changed:
            self._number += 1
            wish = _Wish(connection_id, self._number, began)
            self._wishes.append(wish)
        try:
            while True:
                with self._changed:
                    if self._next() is not wish:
                        self._changed.wait(_LOOK_S)
                    if self._next() is wish:
                        turn = Turn(connection_id, self, now := self.monotonic(), now)
                        self._turns.append(turn)
                        return turn
                if gives_up(self.monotonic() - began):  # not inside: it may ask a database
                    return None
        finally:
            with self._changed:
                self._wishes.remove(wish)
                self._changed.notify_all()

    def leave(self, turn: Turn) -> None:
        """Give a turn back. Doing so twice changes nothing."""
        with self._changed:
            if turn in self._turns:
                self._turns.remove(turn)
            self._changed.notify_all()

    def wants(self, turn: Turn) -> bool:
        """Whether a turn is to be given back for somebody who has none and has waited for too long."""
        with self._changed:
            long_ago = self.monotonic() - PATIENT_S
            here = self._here()
            waiting = {w.connection_id for w in self._wishes if w.since < long_ago and w.connection_id not in here}
            moving = [t for t in self._turns if t.moved_at > self.monotonic() - STILL_S and t.entered_at < long_ago]
            moving.sort(key=lambda t: (-here[t.connection_id], t.entered_at))
            return turn in moving[: len(waiting)]

    @property
    def taken(self) -> int:
        """How many lanes are carried out here."""
        with self._changed:
            return len(self._turns)

    def _next(self) -> _Wish | None:
        """Whose turn it is, if there is room for anybody."""
        since = self.monotonic() - STILL_S
        moving = sum(turn.moved_at > since for turn in self._turns)
        here = self._here()
        firsts = moving < self._slots * CONNECTIONS
        wishes = [w for w in self._wishes if moving < self._slots or (firsts and w.connection_id not in here)]
        return min(wishes, key=lambda w: (here.get(w.connection_id, 0), w.number), default=None)

    def _here(self) -> dict[str, int]:
        """How many lanes of each connection are carried out here."""
        return Counter(turn.connection_id for turn in self._turns)
