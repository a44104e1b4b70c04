"""When an incident opens and clears, with nobody but the ledger to ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from alerts_cast import NOON, Desk, Letterbox

from isthmus.alerts.watch import span, watch
from isthmus.ledger import connections, incidents, runs, syncs
from isthmus.ledger.schema import syncs as syncs_table
from isthmus.model.work import Finding, RunKind, RunState, SyncState

FAILURE, SILENCE = ("everything", "failure"), ("everything", "silence")


def test_a_run_that_failed_is_an_incident_until_a_later_one_completes(any_desk: Desk) -> None:
    desk = any_desk
    desk.apply()
    assert desk.look() == []
    desk.deliver()
    desk.later(minutes=60)
    failed = desk.fail_one()
    assert desk.look() == [FAILURE]
    desk.later(minutes=1)
    desk.fail_one()
    assert desk.look() == [FAILURE]
    (incident,) = desk.incidents()
    assert incident.summary == "a periodic run failed: the role may not create tables"
    assert incident.hint == "run the set-up script again"
    assert incident.details["run_id"] == failed and incident.details["code"] == "42501"
    assert incident.opened_at == NOON + timedelta(hours=1) and incident.complete_up_to == NOON
    assert "ann@example.com" not in str(incident)
    desk.later(minutes=1)
    desk.deliver()
    assert desk.look() == []
    (incident,) = desk.incidents()
    assert incident.cleared_at == desk.now
    assert incident.settled, "there was nobody to tell"


def test_a_run_that_will_be_tried_again_is_none(desk: Desk) -> None:
    desk.apply()
    desk.fail(desk.begin(), RunState.RETRYING)
    assert desk.look() == []


def test_the_failed_run_itself_goes_on_and_completes(desk: Desk) -> None:
    desk.apply()
    desk.deliver()
    desk.later(minutes=1)
    run_id = desk.fail_one()
    assert desk.look() == [FAILURE]
    with desk.ledger.transaction() as tx:
        runs.set_state(tx, run_id, RunState.RUNNING, at=desk.now)
    assert desk.look() == [FAILURE], "an older run that completed is no recovery"
    desk.later(minutes=1)
    desk.finish(run_id)
    assert desk.look() == []


def test_a_tick_with_nothing_to_deliver_is_a_recovery_too(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    assert desk.look() == [FAILURE]
    desk.later(minutes=5)
    with desk.ledger.transaction() as tx:
        sync = syncs.named(tx, "everything")
        syncs.advance(tx, sync.sync_id, generation=1, watermark=0, snapshot_id=1, fresh_at=desk.now, at=desk.now)
    assert desk.look() == []


def test_a_cancelled_run_recovers_nothing(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    desk.look()
    desk.later(minutes=1)
    run_id = desk.begin()
    with desk.ledger.transaction() as tx:
        runs.set_state(tx, run_id, RunState.CANCELLED, at=desk.now)
    assert desk.look() == [FAILURE]


def test_a_proof_that_succeeds_does_not_make_up_for_a_delivery_that_failed(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    desk.look()
    desk.later(minutes=1)
    desk.finish(desk.begin(kind=RunKind.VERIFICATION))
    assert desk.look() == [FAILURE]


def test_a_proof_that_could_not_be_made_is_made_up_for_by_the_next(desk: Desk) -> None:
    desk.apply()
    desk.deliver()
    desk.later(minutes=1)
    desk.fail(desk.begin(kind=RunKind.VERIFICATION))
    assert desk.look() == [FAILURE]
    desk.later(hours=4)
    assert desk.look() == [FAILURE, SILENCE], "deliveries are not what failed"
    desk.finish(desk.begin(kind=RunKind.VERIFICATION))
    assert desk.look() == [SILENCE]


def test_silence_although_no_run_was_ever_scheduled(any_desk: Desk) -> None:
    desk = any_desk
    desk.apply()
    desk.later(hours=3)
    assert desk.look() == []
    desk.later(seconds=1)
    assert desk.look() == [SILENCE]
    (incident,) = desk.incidents()
    assert incident.summary == "nothing has been delivered for 3 h 1 s; the limit is 3 h"
    assert incident.details["limit_s"] == 3 * 3600
    desk.deliver()
    assert desk.look() == []


def test_silence_says_up_to_when_the_data_is_complete(desk: Desk) -> None:
    desk.apply()
    desk.deliver()
    desk.later(days=1, hours=2, minutes=3)
    desk.begin()  # a run that hangs
    assert desk.look() == [SILENCE]
    (incident,) = desk.incidents()
    assert incident.summary == "the data is complete only up to 2026-11-21 12:00 UTC: 1 day 2 h; the limit is 3 h"


def test_a_limit_of_its_own_goes_before_the_schedule(desk: Desk) -> None:
    desk.apply("patient", limit_s=86_400)
    desk.apply("strict", limit_s=60)
    desk.apply("by hand", schedule="manual")
    desk.apply("by hand, with a limit", schedule="manual", limit_s=60)
    desk.later(hours=12)
    assert desk.look() == [("by hand, with a limit", "silence"), ("strict", "silence")]
    desk.apply("strict", schedule="manual")
    assert desk.look() == [("by hand, with a limit", "silence")]


def test_a_schedule_that_cannot_be_read_blinds_nobody(desk: Desk) -> None:
    sync = desk.apply("odd")
    desk.apply("sound")
    with desk.ledger.transaction() as tx:
        tx.execute(syncs_table.update().where(syncs_table.c.sync_id == sync.sync_id).values(schedule="whenever"))
    desk.later(hours=12)
    assert desk.look() == [("sound", "silence")]


@pytest.mark.parametrize("state", [SyncState.PAUSED, SyncState.DISABLED])
def test_what_a_person_stopped_is_nothing_to_be_told_of(desk: Desk, state: SyncState) -> None:
    desk.apply()
    desk.later(hours=12)
    assert desk.look() == [SILENCE]
    desk.fail_one()
    assert desk.look() == [FAILURE, SILENCE]
    desk.set(state)
    assert desk.look() == []
    desk.later(hours=12)
    assert desk.look() == []


def test_a_removed_connection_clears_what_was_open(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    assert desk.look() == [FAILURE]
    with desk.ledger.transaction() as tx:
        connections.remove(tx, "dwh", at=desk.now)
    assert desk.look() == []


def test_one_failed_run_is_one_incident_even_if_a_person_pauses_and_resumes(desk: Desk) -> None:
    desk.apply()
    run_id = desk.fail_one()
    desk.look()
    desk.set(SyncState.PAUSED)
    assert desk.look() == []
    desk.set(SyncState.ENABLED)
    assert desk.look() == []
    with desk.ledger.transaction() as tx:  # the same run goes again, and fails again
        runs.set_state(tx, run_id, RunState.RUNNING, at=desk.now)
    desk.later(minutes=1)
    desk.fail(run_id)
    assert desk.look() == [FAILURE]
    assert len(desk.incidents()) == 2


def test_a_sync_that_paused_itself_stays_an_incident_until_a_run_completes(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    desk.set(SyncState.PAUSED, because="paused itself after 25 failed runs in a row")
    assert desk.look() == [FAILURE]
    (incident,) = desk.incidents()
    assert incident.summary == "the sync paused itself after 25 failed runs in a row"
    assert incident.hint == "mend the cause, then: isthmus sync resume everything"
    desk.later(days=9)
    assert desk.look() == [FAILURE], "its silence is not news"
    desk.set(SyncState.ENABLED)
    assert desk.look() == [FAILURE]
    desk.deliver()
    assert desk.look() == []


def test_while_deliveries_fail_their_silence_is_not_told_as_well(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    assert desk.look() == [FAILURE]
    desk.later(hours=12)
    assert desk.look() == [FAILURE]


def test_beginning_again_is_no_silence(any_desk: Desk) -> None:
    desk = any_desk
    desk.apply()
    desk.later(days=30)
    desk.deliver()
    desk.later(minutes=10)
    with desk.ledger.transaction() as tx:
        syncs.restart(tx, syncs.named(tx, "everything").sync_id, at=desk.now)
    assert desk.look() == [], "it has delivered until just now"
    desk.begin()
    desk.later(hours=3)
    assert desk.look() == []
    desk.later(minutes=1)
    assert desk.look() == [SILENCE], "the history takes longer than the limit"


def test_many_who_look_at_once_open_one_incident(any_desk: Desk) -> None:
    desk = any_desk
    desk.apply()
    desk.fail_one()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: watch(desk.ledger, desk.now), range(8)))
    assert {len(each) for each in found} == {1}
    assert len(desk.incidents()) == 1


def test_opening_and_clearing_say_whether_they_did(any_desk: Desk) -> None:
    sync = any_desk.apply()
    kind = incidents.IncidentKind.FAILURE
    with any_desk.ledger.transaction() as tx:
        assert not incidents.clear(tx, sync.sync_id, kind, NOON)
        assert incidents.open_(tx, sync.sync_id, kind, "one", {}, NOON)
        assert not incidents.open_(tx, sync.sync_id, kind, "two", {}, NOON)
        assert incidents.open_(tx, sync.sync_id, incidents.IncidentKind.SILENCE, "three", {}, NOON)
        assert incidents.clear(tx, sync.sync_id, kind, NOON)
        assert incidents.open_(tx, sync.sync_id, kind, "four", {}, NOON + timedelta(minutes=1))
        assert incidents.newest(tx, 1)[0].summary == "four"
        assert sorted(i.summary for i in incidents.newest(tx, open_only=True)) == ["four", "three"]
        assert incidents.newest(tx, sync_id="sync_other") == []
        assert incidents.gc(tx, NOON) == 0
        assert incidents.gc(tx, NOON + timedelta(days=1)) == 1
        assert sorted(i.summary for i in incidents.newest(tx)) == ["four", "three"]


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ({}, "0 s"),
        ({"seconds": 61}, "1 min 1 s"),
        ({"hours": 25, "seconds": 1}, "1 day 1 h"),
        ({"days": 3}, "3 days"),
        ({"seconds": -5}, "0 s"),
    ],
)
def test_a_stretch_of_time_in_words(time: dict[str, float], words: str) -> None:
    assert span(timedelta(**time)) == words


UNABLE = ("dwh", "unable")


def test_a_connection_that_nobody_gets_into_is_one_incident_however_many_syncs_wait(any_desk: Desk) -> None:
    desk = any_desk
    desk.apply()
    desk.apply("more")
    desk.deliver()
    desk.deliver("more")
    for name in ("everything", "more"):
        desk.fail(desk.begin(name), blame="door")
    desk.shut()
    assert desk.look() == [UNABLE]
    desk.later(hours=9)
    assert desk.look() == [UNABLE], "nor as a silence"
    (incident,) = desk.incidents()
    assert incident.summary == "unable to connect, and its syncs wait: the password is wrong"
    assert incident.hint.startswith("ask for it; isthmus connection check dwh") and incident.complete_up_to is None
    assert "no such password" not in str(incident), "a warehouse's own words stay here"
    with desk.ledger.transaction() as tx:
        connections.set_able(tx, connections.named(tx, "dwh").connection_id, at=desk.now)
    desk.deliver()
    desk.deliver("more")
    assert desk.look() == []


def test_a_connection_that_nobody_waits_for_is_no_incident(desk: Desk) -> None:
    sync = desk.apply()
    desk.shut()
    desk.set(SyncState.PAUSED)
    assert desk.look() == []
    desk.set(SyncState.ENABLED)
    assert desk.look() == [UNABLE]
    with desk.ledger.transaction() as tx:
        connections.remove(tx, "dwh", at=desk.now)
    assert desk.look() == [] and sync.name == "everything"


def test_a_right_that_is_missing_inside_is_told_of_the_run_that_needs_it(desk: Desk) -> None:
    desk.apply()
    desk.fail(desk.begin(), blame="grant")
    with desk.ledger.transaction() as tx:
        connections.set_unable(tx, connections.named(tx, "dwh").connection_id, Finding("no right", desk.now))
    assert desk.look() == [FAILURE]


def test_the_message_about_a_connection_names_it(desk: Desk) -> None:
    desk.apply()
    desk.shut()
    box = Letterbox()
    desk.channels = (box,)
    (told,) = desk.look_and_tell()
    assert told.message.subject.startswith("[Isthmus] dwh: unable to connect")
    document = told.message.document()
    assert (document["sync"], document["connection"], document["freshness"]) == (None, "dwh", None)
    assert document["incident"]["kind"] == "unable" and "Complete up to" not in told.message.text
