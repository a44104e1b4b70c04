"""Checks are repeated every night: by whom, how often, what a hang does, and who is told when a right is gone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from doors_cast import Yard, wait_for

from isthmus.actions import checking, connecting
from isthmus.actions.checking import Nightly
from isthmus.alerts.watch import watch
from isthmus.app import App
from isthmus.ledger import connections, incidents
from isthmus.ledger.checks import Asked
from isthmus.model.work import ConnectionState
from isthmus.settings import Settings

DAY = timedelta(days=1)


class Night:
    """Somebody who looks every night at noon, when all moments of the night have passed."""

    def __init__(self, yard: Yard, **environ: str) -> None:
        self.yard = yard
        self.app = App(Settings.load(environ, yard.home))
        self.now = datetime.now(UTC).replace(hour=12)
        self.app.now = lambda: self.now  # type: ignore[method-assign]
        self.nightly = Nightly(self.app)

    def comes(self) -> None:
        """A night passes, and everyone who is to be asked has answered, or hangs."""
        self.now += DAY
        self.looks()

    def looks(self) -> None:
        self.nightly.look()
        wait_for(lambda: all(asking.is_over for asking in self.nightly._asking.values()))

    def answers(self, name: str = "dwh") -> list[list[bool]]:
        """What was answered at night, newest first."""
        past = connecting.past_checks(self.yard.app, name, limit=50)
        return [[a.passed for a in one.answers] for one in past if one.asked is Asked.NIGHTLY]


def test_every_connection_is_asked_once_a_night_and_its_answers_are_kept(yard: Yard) -> None:
    yard.apply(yard.described("one"), yard.described("two"), yard.described("three", nightly_checks=False))
    night = Night(yard)
    night.comes()
    for _ in range(3):
        night.looks()
    assert night.answers("one") == night.answers("two") == [[True, True, True]]
    assert night.answers("three") == [] and yard.guard("three").asked == 0
    night.comes()
    assert len(night.answers("one")) == 2
    assert yard.connection("one").checked_at == night.now
    connecting.remove_connection(yard.app, "two")
    night.comes()
    assert len(night.answers("one")) == 3 and len(night.answers("two")) == 2, "they stay when it is removed"
    night.app.close()


def test_nobody_is_asked_when_that_is_switched_off(yard: Yard) -> None:
    yard.apply()
    night = Night(yard, ISTHMUS_CHECK_HOUR="off")
    night.comes()
    assert yard.guard().asked == 0
    night.app.close()


def test_of_two_processes_that_look_at_the_same_moment_one_asks(yard: Yard) -> None:
    yard.apply()
    ann, ben = Night(yard), Night(yard)
    ben.now = ann.now = ann.now + DAY
    with ann.app.ledger.reading() as tx:
        seen = connections.named(tx, "dwh")
    ann.looks()
    ben.looks()
    assert yard.guard().asked == 1
    with ben.app.ledger.transaction() as tx:
        assert not connections.take_nightly(tx, seen, at=ben.now), "he had looked before ann took it"
    ann.app.close()
    ben.app.close()


def test_a_right_that_goes_is_told_once_and_clears_when_it_is_back(yard: Yard) -> None:
    yard.apply(schedule="manual")
    night = Night(yard)
    yard.guard().missing = "INSERT"
    night.comes()
    assert yard.incidents() == [], "it never was a yes: that is no drift"
    yard.guard().missing = ""
    night.comes()
    yard.guard().missing = "INSERT"
    for _ in range(2):
        night.comes()
        watch(yard.app.ledger, night.now)
        assert yard.incidents() == [("dwh", "drift")]
    with yard.app.ledger.reading() as tx:
        (incident,) = incidents.newest(tx)
    assert incident.summary == "what it may do has changed: “Can we load?” is a no"
    assert incident.hint == "isthmus connection check dwh says how to mend it"
    found = yard.connection()
    assert found.state is ConnectionState.UNABLE and not found.is_shut
    assert found.finding is not None and found.finding.statement == "GRANT INSERT;"

    yard.guard().surplus = True  # a yes that begins to warn is one too
    night.comes()
    with yard.app.ledger.reading() as tx:
        (incident,) = incidents.newest(tx)
    assert "“Are there rights it does not need?” is a warning" in incident.summary
    yard.guard().missing = ""
    night.comes()
    assert yard.incidents() == [("dwh", "drift")] and yard.connection().state is ConnectionState.ENABLED
    yard.guard().surplus = False
    yard.check()  # by a person, who has mended it
    assert yard.incidents() == []
    night.app.close()


def test_a_password_that_ran_out_is_one_incident_and_the_rights_inside_are_not_forgotten(yard: Yard) -> None:
    yard.apply()
    night = Night(yard)
    night.comes()
    yard.guard().password = "new"
    night.comes()
    watch(yard.app.ledger, night.now)
    assert yard.incidents() == [("dwh", "unable")] and yard.connection().is_shut
    yard.guard().password, yard.guard().missing = "right", "INSERT"
    night.comes()
    watch(yard.app.ledger, night.now)
    assert yard.incidents()[0] == ("dwh", "drift"), "one gets in, and what was a yes two nights ago is a no"
    connecting.remove_connection(yard.app, "dwh")
    watch(yard.app.ledger, night.now)
    assert yard.incidents() == []
    night.app.close()


def test_a_warehouse_that_says_nothing_holds_up_nobody_and_counts_as_a_no(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "DEADLINE_S", 0.5)
    monkeypatch.setattr(checking, "AT_ONCE", 2)
    names = ["hangs 1", "hangs 2", "works 1", "works 2", "works 3"]
    yard.apply(*map(yard.described, names))
    for name in names[:2]:
        yard.guard(name).shut()
    night = Night(yard)
    night.now += DAY
    began = time.monotonic()

    def all_are_asked() -> bool:
        night.nightly.look()
        return all(night.answers(name) for name in names)

    wait_for(all_are_asked)
    assert time.monotonic() - began < 10
    assert night.answers("works 3") == [[True, True, True]]
    assert night.answers("hangs 1") == [[False]] and yard.connection("hangs 1").is_shut
    (one,) = connecting.past_checks(yard.app, "hangs 1", limit=5)
    assert one.answers[0].question == "Do the checks come to an end?"

    # while it hangs it is not asked again; what it says at last is too late
    night.now += DAY
    night.nightly.look()
    assert yard.guard("hangs 1").asked == 1
    for name in names:
        yard.guard(name).gate.set()
    night.looks()
    assert night.answers("hangs 1") == [[False]]
    night.looks()
    assert [True, True, True] in night.answers("hangs 1") and not yard.connection("hangs 1").is_shut
    night.app.close()


def test_what_a_night_finds_mended_lets_syncs_go_on(yard: Yard) -> None:
    yard.events("e1")
    yard.guard().away = True
    yard.apply()
    yard.serve()
    yard.check()
    assert yard.connection().is_shut
    yard.guard().away = False
    night = Night(yard)
    night.comes()
    assert yard.connection().state is ConnectionState.ENABLED
    wait_for(yard.is_complete)
    night.app.close()


def test_a_connector_that_breaks_down_at_a_question_is_logged_and_changes_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    yard.apply()
    before = yard.connection()
    night = Night(yard)
    monkeypatch.setattr(type(night.app.config(before)), "check", lambda self: 1 / 0)
    night.comes()
    after = yard.connection()
    assert (after.state, after.checked_at) == (before.state, before.checked_at)
    assert night.answers() == []
    night.app.close()
