"""A person adds, changes, checks and removes connections."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from ledger_cast import KEY, NOON, apply_everything, deliver, planned, put_dwh
from sqlalchemy import insert

from isthmus.ledger import checks, connections, runs, syncs
from isthmus.ledger.checks import Answers, Asked
from isthmus.ledger.database import Change, Tx
from isthmus.ledger.schema import checks as checks_table
from isthmus.model.checks import Check
from isthmus.model.errors import InvalidInput
from isthmus.model.work import ConnectionState, Finding, RunState, SyncState
from isthmus.secrets import Seal, Secret

LATER = NOON + timedelta(hours=1)


def test_a_connection_comes_back_as_it_was_put(tx: Tx) -> None:
    put = put_dwh(tx)
    found = connections.named(tx, "dwh")
    assert found == put == connections.by_id(tx, put.connection_id)
    assert (found.kind, found.fields, found.state) == ("snowflake", {"account": "a", "port": 443}, "enabled")
    assert found.unsealed(Seal(KEY)) == {"password": Secret("hunter2")}


def test_no_secret_is_readable_in_the_ledger(tx: Tx) -> None:
    put_dwh(tx)
    assert "hunter2" not in repr(tx.exec_driver_sql("SELECT * FROM connections").all())


def test_putting_the_same_again_changes_nothing_although_sealing_differs(tx: Tx) -> None:
    put = put_dwh(tx)
    again, change = connections.put(
        tx,
        name="dwh",
        kind="snowflake",
        fields={"account": "a", "port": 443},
        secrets={"password": Secret("hunter2")},
        seal=Seal(KEY),
        at=LATER,
    )
    assert (again, change) == (put, Change.UNCHANGED)


def test_a_new_password_is_the_same_place_so_syncs_go_on(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    put_dwh(tx, secrets={"password": Secret("other")})
    assert connections.named(tx, "dwh").unsealed(Seal(KEY)) == {"password": Secret("other")}
    assert syncs.by_id(tx, sync.sync_id).watermark == 10


def test_another_account_is_another_place_so_syncs_begin_again(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    put_dwh(tx, fields={"account": "b", "port": 443})
    moved = syncs.by_id(tx, sync.sync_id)
    assert (moved.watermark, moved.generation, moved.fresh_at) == (0, 2, None)


def test_an_incidental_field_does_not_mean_another_place(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    put_dwh(tx, fields={"account": "a", "port": 444}, incidental={"port"})
    assert syncs.by_id(tx, sync.sync_id).watermark == 10


def test_credentials_whose_key_is_lost_can_be_entered_again(tx: Tx) -> None:
    put_dwh(tx)
    new = Seal(Fernet.generate_key())
    with pytest.raises(InvalidInput, match="cannot be unsealed"):
        connections.named(tx, "dwh").unsealed(new)
    put_dwh(tx, seal=new)
    assert connections.named(tx, "dwh").unsealed(new) == {"password": Secret("hunter2")}


def test_a_check_that_fails_makes_it_unable_and_new_credentials_enable_it(tx: Tx) -> None:
    put = put_dwh(tx)
    finding = Finding("the password is wrong", LATER, "28P01", "no", "look it up", question="Can we sign in?")
    unable = connections.set_unable(tx, put.connection_id, finding, next_try_at=LATER + timedelta(minutes=10))
    assert (unable.state, unable.since, unable.finding) == (ConnectionState.UNABLE, LATER, finding)
    assert (unable.is_shut, unable.tries, unable.version) == (True, 1, 1)

    assert put_dwh(tx) == unable, "saying the same again opens no door"

    mended = put_dwh(tx, secrets={"password": Secret("other")}, at=LATER)
    assert (mended.state, mended.finding, mended.next_try_at, mended.tries) == (ConnectionState.ENABLED, None, None, 0)
    assert mended.version == 2 and not mended.is_shut


def test_removing_disables_the_syncs_ends_their_run_and_keeps_history(tx: Tx) -> None:
    sync = apply_everything(tx)
    before = deliver(tx, sync, upto=10)
    sync = syncs.by_id(tx, sync.sync_id)
    under_way = runs.start(tx, planned(sync, after=10, upto=20), generation=1)

    removed = connections.remove(tx, "dwh", at=LATER)

    assert (removed.state, removed.sealed) == (ConnectionState.DISABLED, {})
    assert syncs.named(tx, "everything").state == SyncState.DISABLED
    assert syncs.named(tx, "everything").watermark == 10
    assert runs.get(tx, under_way.run_id).state == RunState.CANCELLED
    assert [run.run_id for run in runs.newest(tx)] == [under_way.run_id, before.run_id]
    assert connections.remove(tx, "dwh", at=LATER) == removed
    assert connections.set_able(tx, removed.connection_id, at=LATER) == removed
    assert connections.set_unable(tx, removed.connection_id, Finding("no", LATER)) == removed


def test_a_removed_connection_and_its_export_come_back_where_they_were(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    connections.remove(tx, "dwh", at=LATER)
    with pytest.raises(InvalidInput, match="connection was removed"):
        syncs.set_state(tx, sync.sync_id, SyncState.ENABLED, at=LATER)

    back = apply_everything(tx)

    assert (back.state, back.watermark, back.generation) == (SyncState.ENABLED, 10, 1)


def test_an_unknown_name_is_refused_with_the_closest_one(tx: Tx) -> None:
    put_dwh(tx)
    with pytest.raises(InvalidInput, match="no connection named 'dhw'") as caught:
        connections.named(tx, "dhw")
    assert caught.value.hint == "did you mean dwh?"
    with pytest.raises(InvalidInput):
        connections.by_id(tx, "con_none")


def test_answers_of_checks_are_kept_newest_first(tx: Tx) -> None:
    put = put_dwh(tx)
    yes = Check("Can we sign in?", True)
    no = Check("Can we read?", False, "permission denied", "grant it", "GRANT USAGE …")
    checks.keep(tx, put.connection_id, [yes], at=NOON)
    checks.keep(tx, put.connection_id, [yes, no], at=LATER)
    found = checks.of(tx, put.connection_id)
    assert found == [Answers(LATER, Asked.PERSON, (yes, no)), Answers(NOON, Asked.PERSON, (yes,))]
    assert [one.passed for one in found] == [False, True]


def test_answers_that_another_version_kept_can_be_read(tx: Tx) -> None:
    put = put_dwh(tx)
    before = {"question": "Can we sign in?", "passed": True, "detail": "", "hint": "", "statement": ""}
    after = {**before, "question": "Is it warm?", "warns": True, "colour": "blue"}
    tx.execute(insert(checks_table).values(connection_id=put.connection_id, at=NOON, answers=[before, after]))
    (found,) = checks.of(tx, put.connection_id)
    assert found.answers == (Check("Can we sign in?", True), Check("Is it warm?", True, warns=True))


def test_the_last_answer_to_a_question_may_be_of_an_earlier_time(tx: Tx) -> None:
    put = put_dwh(tx)
    reach, sign_in = Check("Can the host be reached?", True), Check("Can we sign in?", True)
    checks.keep(tx, put.connection_id, [reach, sign_in], at=NOON)
    away = replace(reach, passed=False)
    checks.keep(tx, put.connection_id, [away], at=LATER, asked=Asked.NIGHTLY)
    assert checks.last_answers(tx, put.connection_id) == {away.question: away, sign_in.question: sign_in}
