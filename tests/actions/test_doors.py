"""A connection that cannot be entered: what is found out, what waits, and what goes on when it can. A worker serves."""

from __future__ import annotations

import time

import pytest
from doors_cast import Yard, wait_for

from isthmus.actions import connecting, syncing
from isthmus.alerts.watch import watch
from isthmus.model.errors import InvalidInput, SyncBusy
from isthmus.model.work import ConnectionState, RunState, SyncState
from isthmus.runs import retry
from isthmus.secrets import Secret

ENABLED, UNABLE, DISABLED = ConnectionState


def new_password(yard: Yard, password: str, *, name: str = "dwh") -> list[str]:
    """A person edits the connection; the syncs that go on."""
    edit = connecting.edit_connection(yard.app, name, fields={}, secrets={"password": Secret(password)})
    list(edit.ask())
    assert not edit.refused
    return edit.take()[1]


def test_a_refused_password_makes_it_unable_and_says_why_and_the_right_one_lets_all_its_syncs_go_on(
    yard: Yard,
) -> None:
    yard.events("e1", "e2", "e3")
    yard.guard().password = "other"
    yard.apply(syncs=3)
    yard.serve()
    wait_for(lambda: yard.connection().is_shut)
    found = yard.connection()
    assert found.state is UNABLE and found.finding is not None
    assert (found.finding.code, found.finding.vendor, found.finding.hint) == ("28P01", "no such password", "ask him")
    assert found.finding.sync.startswith("to dwh") and found.finding.at == found.since
    assert found.tries == 1, "what had begun before that was known is no further try"
    assert found.next_try_at is not None and found.next_try_at > found.finding.at

    # those that had not begun wait, and nobody hammers
    time.sleep(1)
    tried = len(yard.guard().sign_ins)
    time.sleep(2)
    assert len(yard.guard().sign_ins) == tried <= 2 * 3, "a run and a knock, of each that had begun"
    watch(yard.app.ledger, yard.app.now())
    assert yard.incidents() == [("dwh", "unable")], "told once, and not for each of the three"
    assert all(sync.state is SyncState.ENABLED and sync.failures == 0 for sync, _ in syncing.list_syncs(yard.app))

    yard.guard().password = "right"
    assert all(yard.check())
    assert yard.connection().state is ENABLED and yard.connection().finding is None
    for sync in ("to dwh", "to dwh 2", "to dwh 3"):
        wait_for(lambda sync=sync: yard.is_complete(sync))
        assert yard.proven(sync)
    watch(yard.app.ledger, yard.app.now())
    assert yard.incidents() == []


@pytest.mark.long
def test_one_sync_tries_when_it_is_time_and_when_it_gets_in_all_go_on_without_a_person(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_AT_DOOR_S", 3.0)
    monkeypatch.setattr(retry, "LONGEST_AT_DOOR_S", 3.0)
    yard.events("e1")
    yard.guard().password = "other"
    yard.apply(syncs=3)
    yard.serve()
    wait_for(lambda: yard.connection().tries >= 3)
    yard.guard().password = "right"
    for sync in ("to dwh", "to dwh 2", "to dwh 3"):
        wait_for(lambda sync=sync: yard.is_complete(sync))
    assert yard.connection().state is ENABLED and yard.connection().tries == 0


@pytest.mark.long
def test_a_warehouse_that_is_away_for_long_is_unable_and_its_runs_stop_trying_one_by_one(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_TRIES", 2)
    monkeypatch.setattr(retry, "FIRST_S", 0.2)
    yard.events("e1")
    yard.guard().away = True
    yard.apply(syncs=2)
    yard.serve()
    wait_for(lambda: yard.connection().is_shut)
    wait_for(lambda: yard.has_failed() or yard.has_failed("to dwh 2"))
    time.sleep(2)
    tried = len(yard.guard().sign_ins)
    time.sleep(2)
    assert len(yard.guard().sign_ins) == tried
    yard.guard().away = False
    assert all(yard.check())
    for sync in ("to dwh", "to dwh 2"):
        wait_for(lambda sync=sync: yard.is_complete(sync))


def test_a_run_that_is_between_two_tries_goes_on_as_soon_as_the_connection_is_edited(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_S", 3600.0)
    monkeypatch.setattr(retry, "LONGEST_S", 3600.0)
    yard.events("e1")
    yard.guard().away = True
    yard.apply()
    yard.serve()
    wait_for(lambda: yard.runs() and yard.runs()[0].state is RunState.RETRYING)
    yard.guard().away = False
    yard.guard().password = "new"
    assert new_password(yard, "new") == ["to dwh"]
    wait_for(yard.is_complete)
    assert len(yard.runs()) == 1


def test_a_right_that_is_missing_inside_holds_up_only_the_run_that_needs_it(yard: Yard) -> None:
    yard.events("e1")
    yard.guard().missing = "INSERT"
    yard.apply(schedule="manual")
    with pytest.raises(Exception, match="lets nobody load"):
        syncing.run_sync(yard.app, "to dwh")
    found = yard.connection()
    assert found.state is UNABLE and not found.is_shut and found.next_try_at is None
    assert found.finding is not None and (found.finding.code, found.finding.sync) == ("42501", "to dwh")
    assert yard.runs()[0].errors[-1].blame == "grant"
    watch(yard.app.ledger, yard.app.now())
    assert yard.incidents() == [("to dwh", "failure")]

    yard.guard().missing = ""
    assert syncing.run_sync(yard.app, "to dwh") is not None
    assert yard.connection().state is ENABLED, "the run to which it was refused is complete"


def test_what_was_refused_to_one_sync_is_not_given_because_another_one_works(yard: Yard) -> None:
    yard.events("e1")
    yard.guard().missing = "INSERT"
    yard.apply(syncs=2, schedule="manual")
    with pytest.raises(Exception, match="lets nobody load"):
        syncing.run_sync(yard.app, "to dwh")
    yard.guard().missing = ""
    syncing.run_sync(yard.app, "to dwh 2")
    assert yard.connection().state is UNABLE
    assert all(yard.check())
    assert yard.connection().state is ENABLED
    assert yard.runs()[0].state is RunState.SCHEDULED, "a person had asked for it, and it goes on"


def test_a_run_with_nothing_to_do_says_nothing_about_the_connection(yard: Yard) -> None:
    yard.events("e1")
    yard.apply(schedule="manual")
    syncing.run_sync(yard.app, "to dwh")
    yard.guard().away = True
    assert yard.check() == [False]
    assert yard.connection().is_shut
    assert syncing.run_sync(yard.app, "to dwh") is None
    assert yard.connection().is_shut


def test_a_person_may_run_a_sync_of_a_shut_connection_and_when_it_works_it_is_open(yard: Yard) -> None:
    yard.events("e1")
    yard.apply(schedule="manual")
    yard.guard().away = True
    yard.check()
    yard.guard().away = False
    assert yard.connection().is_shut
    assert syncing.run_sync(yard.app, "to dwh") is not None
    assert yard.connection().state is ENABLED


def test_credentials_change_in_the_middle_of_a_run_and_the_run_itself_goes_on(yard: Yard) -> None:
    """The old password is refused at the next load, after the new one was entered."""
    yard.events(*(f"e{n}" for n in range(6)))
    yard.apply()
    guard = yard.guard()
    guard.at_every_load = True
    guard.shut()
    yard.serve()
    wait_for(guard.at_gate.is_set)
    guard.password = "new"
    before = len(yard.runs())
    edit = connecting.edit_connection(yard.app, "dwh", fields={}, secrets={"password": Secret("new")})
    assert edit.take()[0].value == "changed"
    guard.gate.set()
    wait_for(yard.is_complete)
    (run,) = yard.runs()
    assert before == 1 and {password for _, password in guard.loads} == {"new"}
    assert [(e.code, e.retryable) for e in run.errors] == [("28P01", True)] * len(run.errors) != []
    assert len({batch for batch, _ in guard.loads}) == len(guard.loads)
    assert yard.proven() and yard.connection().state is ENABLED


def test_who_is_inside_with_old_credentials_signs_in_anew_at_the_next_chunk(yard: Yard) -> None:
    yard.events(*(f"e{n}" for n in range(6)))
    yard.apply(yard.described(concurrency=1))
    guard = yard.guard()
    guard.shut()
    yard.serve()
    wait_for(guard.at_gate.is_set)
    yard.apply(yard.described(password="new", concurrency=1))  # by a file
    guard.password = "new"
    guard.gate.set()
    wait_for(yard.is_complete)
    (run,) = yard.runs()
    assert not run.errors, "nothing was refused: the session was still good"
    passwords = [password for _, password in guard.loads]
    assert passwords[0] == "right" and set(passwords[1:]) == {"new"}
    assert yard.proven()


def test_a_run_that_failed_because_of_the_old_password_goes_on_at_its_chunk_with_the_new_one(yard: Yard) -> None:
    yard.events(*(f"e{n}" for n in range(6)))
    yard.apply(yard.described(concurrency=1))
    guard = yard.guard()
    guard.at_every_load = True
    guard.shut()
    yard.serve()
    wait_for(guard.at_gate.is_set)
    guard.password = "new"
    guard.gate.set()
    wait_for(yard.has_failed)
    wait_for(lambda: yard.connection().is_shut)
    assert new_password(yard, "new") == ["to dwh"]
    wait_for(yard.is_complete)
    (run,) = yard.runs()
    assert (
        len({batch for batch, _ in guard.loads})
        == len(guard.loads)
        == len(syncing.show_run(yard.app, run.run_id).chunks)
    )
    assert yard.proven()


def test_new_credentials_that_are_refused_are_not_taken_unless_forced(yard: Yard) -> None:
    yard.events("e1")
    yard.apply()
    before = yard.connection()
    edit = connecting.edit_connection(yard.app, "dwh", fields={"user": "ben"}, secrets={"password": Secret("wrong")})
    assert [a.passed for a in edit.ask()] == [False]
    assert [a.question for a in edit.refused] == ["Can we sign in?"]
    assert yard.connection() == before, "nothing is changed, not even what is known of it"
    edit.take()
    forced = yard.connection()
    assert forced.fields["user"] == "ben" and forced.unsealed(yard.app.seal)["password"] == Secret("wrong")
    assert forced.is_shut and forced.version == before.version + 1


def test_a_no_that_was_a_no_before_does_not_keep_a_password_from_being_changed(yard: Yard) -> None:
    yard.guard().missing = "SELECT"
    yard.apply(schedule="manual")
    assert yard.check() == [True, False, True]
    yard.guard().password = "new"
    edit = connecting.edit_connection(yard.app, "dwh", fields={}, secrets={"password": Secret("new")})
    list(edit.ask())
    assert edit.refused == []
    wrong = connecting.edit_connection(yard.app, "dwh", fields={}, secrets={"password": Secret("wrong")})
    list(wrong.ask())
    assert wrong.refused


def test_an_edit_is_not_taken_over_somebody_elses(yard: Yard) -> None:
    yard.apply(schedule="manual")
    first = connecting.edit_connection(yard.app, "dwh", fields={"user": "ben"}, secrets={})
    second = connecting.edit_connection(yard.app, "dwh", fields={"user": "cat"}, secrets={})
    first.take()
    with pytest.raises(SyncBusy, match="changed meanwhile"):
        second.take()
    assert yard.connection().fields["user"] == "ben"


def test_what_an_edit_does_not_take(yard: Yard) -> None:
    yard.apply(schedule="manual")
    for fields, secrets, words in (
        ({"password": "right"}, {}, "must not stand on a command line"),
        ({"colour": "blue"}, {}, "has no field colour"),
        ({"path": ""}, {}, "needs the field path"),
        ({}, {"user": Secret("x")}, "is no secret field"),
    ):
        with pytest.raises(InvalidInput, match=words):
            connecting.edit_connection(yard.app, "dwh", fields=fields, secrets=secrets)
    assert not connecting.edit_connection(yard.app, "dwh", fields={"schema": "main"}, secrets={}).moves, "it is, unsaid"
    assert connecting.edit_connection(yard.app, "dwh", fields={"schema": "other"}, secrets={}).moves
    assert not connecting.edit_connection(yard.app, "dwh", fields={"user": "ben"}, secrets={}).moves
    connecting.remove_connection(yard.app, "dwh")
    with pytest.raises(InvalidInput, match="was removed"):
        connecting.edit_connection(yard.app, "dwh", fields={"user": "ben"}, secrets={})


def test_a_connection_is_removed_in_the_middle_of_a_run_and_brought_back(yard: Yard) -> None:
    yard.events(*(f"e{n}" for n in range(6)))
    yard.apply(yard.described(concurrency=1))
    guard = yard.guard()
    guard.shut()
    yard.serve()
    wait_for(guard.at_gate.is_set)
    removed = connecting.remove_connection(yard.app, "dwh")
    assert (removed.state, removed.sealed) == (DISABLED, {})
    guard.gate.set()
    wait_for(lambda: len(guard.loads) == 1)
    time.sleep(2)
    assert len(guard.loads) == 1, "the chunk that was under way, and no other one"
    (run,) = yard.runs()
    assert run.state is RunState.CANCELLED and run.rows_done > 0
    for asks in (lambda: yard.check(), lambda: connecting.setup_script(yard.app, "dwh")):
        with pytest.raises(InvalidInput, match="was removed"):
            asks()
    watch(yard.app.ledger, yard.app.now())
    assert yard.incidents() == []

    assert [str(done.change) for done in yard.apply(yard.described(concurrency=1))] == ["changed", "changed"]
    wait_for(yard.is_complete)
    assert yard.connection().state is ENABLED and len(yard.runs()) == 2
    assert len({batch for batch, _ in guard.loads}) == len(guard.loads)
    assert yard.proven()


def test_applying_the_same_file_again_opens_no_door(yard: Yard) -> None:
    yard.apply(schedule="manual")
    yard.guard().away = True
    yard.check()
    assert [str(done.change) for done in yard.apply(schedule="manual")] == ["unchanged", "unchanged"]
    assert yard.connection().is_shut
    yard.apply(yard.described(password="new"), schedule="manual")
    assert yard.connection().state is ENABLED
