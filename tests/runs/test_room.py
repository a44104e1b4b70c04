"""Whose lane is next at a worker, when some warehouses are slow and some hang. Time passes only when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from runs_cast import wait_for

from isthmus.runs import room as rooms
from isthmus.runs.room import Room, Turn


@dataclass
class Hall:
    """A room, and lanes that come to it, each on a thread of its own."""

    slots: int
    now: float = 0.0
    got: list[Turn] = field(default_factory=list)
    patient: bool = True

    def __post_init__(self) -> None:
        self.room = Room(self.slots, monotonic=lambda: self.now)

    def come(self, *connections: str) -> None:
        """They come one after the other, in this order."""
        for connection in connections:
            before = len(self.room._wishes) + len(self.got)
            threading.Thread(target=self._wish, args=(connection,), daemon=True).start()
            wait_for(lambda before=before: len(self.room._wishes) + len(self.got) > before)

    def _wish(self, connection: str) -> None:
        turn = self.room.enter(connection, gives_up=lambda waited_s: not self.patient)
        if turn is not None:
            self.got.append(turn)

    def inside(self) -> list[str]:
        return sorted(turn.connection_id for turn in self.room._turns)

    def are_inside(self, *connections: str) -> bool:
        wait_for(lambda: self.inside() == sorted(connections))
        return True

    def leave(self, connection: str) -> None:
        next(turn for turn in self.room._turns if turn.connection_id == connection).leave()


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hall]:
    monkeypatch.setattr(rooms, "_LOOK_S", 0.02)
    monkeypatch.setattr(rooms, "CONNECTIONS", 2)
    return Hall


def test_one_connection_takes_all_slots_and_the_first_lane_of_another_comes_in_all_the_same(
    hall: Callable[..., Hall],
) -> None:
    here = hall(slots=2)
    here.come("slow", "slow", "slow", "slow")
    assert here.are_inside("slow", "slow")
    here.come("quick", "quick")
    assert here.are_inside("quick", "slow", "slow")
    here.come("other")
    assert here.are_inside("other", "quick", "slow", "slow")
    here.leave("slow")  # that is one more than there are slots: nobody is next yet
    here.leave("other")
    here.leave("slow")
    assert here.are_inside("quick", "slow"), "whose connection has fewest lanes is next"


def test_lanes_that_hang_do_not_count_after_a_while(hall: Callable[..., Hall]) -> None:
    here = hall(slots=1)
    here.come("hangs", "works", "works", "hangs")
    assert here.are_inside("hangs", "works")
    here.now += rooms.STILL_S + 1
    assert here.are_inside("hangs", "works", "works"), "and whoever comes in then is moving: nobody else does"


def test_there_is_an_end_to_how_many_connections_are_served_at_once(hall: Callable[..., Hall]) -> None:
    here = hall(slots=1)
    names = [f"c{n}" for n in range(rooms.CONNECTIONS + 2)]
    here.come(*names)
    assert here.are_inside(*names[: rooms.CONNECTIONS])
    here.leave("c1")
    assert here.are_inside("c0", "c2"), "who has waited for longest"
    here.now += rooms.STILL_S + 1  # if all hang, the others go on
    assert here.are_inside("c0", "c2", "c3")


def test_a_connection_with_several_lanes_leaves_one_to_a_connection_that_has_none_for_long(
    hall: Callable[..., Hall],
) -> None:
    here = hall(slots=2)
    here.come("big", "big", "b", "c")
    assert here.are_inside("b", "big", "big", "c")
    here.come("late")

    def wanted() -> list[str]:
        return [turn.connection_id for turn in here.room._turns if turn.is_wanted]

    assert wanted() == []
    for _ in range(3):  # they are all moving
        here.now += rooms.PATIENT_S / 2
        for turn in here.room._turns:
            turn.moved()
    assert wanted() == ["big"], "one of them, not both"
    here.leave("big")
    assert here.are_inside("b", "big", "c", "late")
    assert wanted() == []
    here.come("later", "latest")
    here.now += rooms.PATIENT_S / 2
    for turn in here.room._turns:
        turn.moved()
    here.now += rooms.PATIENT_S / 2 + 1
    assert len(wanted()) == 2, "each connection has a share, however many there are"


def test_who_gives_up_waiting_stands_in_nobodys_way(hall: Callable[..., Hall]) -> None:
    here = hall(slots=1)
    here.come("a")
    assert here.are_inside("a")
    here.come("a")
    here.patient = False
    wait_for(lambda: not here.room._wishes)
    here.patient = True
    here.come("a")
    here.leave("a")
    assert here.are_inside("a") and here.room.taken == 1
