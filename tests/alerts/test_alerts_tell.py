"""One message when an incident opens, one when it clears: never lost, not doubled."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alerts_cast import Desk, Letterbox, postman, receiver

from isthmus.alerts import tell as telling
from isthmus.alerts.channels import Untold
from isthmus.alerts.tell import pause, tell
from isthmus.ledger import incidents
from isthmus.ledger.database import open_ledger
from isthmus.model.work import SyncState
from isthmus.testing.standins import free_ports


def test_a_sync_that_keeps_failing_is_told_of_once_and_once_more_when_it_recovers(any_desk: Desk) -> None:
    desk = any_desk
    desk.apply()
    with receiver() as hook:
        desk.channels = (hook.webhook(),)
        assert desk.look_and_tell() == []
        for _ in range(5):
            desk.fail_one()
            desk.look_and_tell()
            desk.later(minutes=5)
        assert hook.events == ["opened"]
        desk.deliver()
        for _ in range(3):
            desk.look_and_tell()
            desk.later(minutes=5)
        assert hook.events == ["opened", "cleared"]
        assert [i.settled for i in desk.incidents()] == [True]
        desk.fail_one()
        desk.look_and_tell()
        assert hook.events == ["opened", "cleared", "opened"]


def test_silence_is_told_although_nothing_ever_ran(desk: Desk) -> None:
    box = Letterbox()
    desk.apply()
    desk.channels = (box,)
    desk.later(hours=4)
    desk.look_and_tell()
    desk.later(hours=4)
    desk.look_and_tell()
    assert [event for event, _ in box.got] == ["opened"]


@pytest.mark.parametrize("dead", ["webhook", "email"])
def test_a_channel_that_is_dead_stops_nobody_and_hears_it_once_when_it_is_back(desk: Desk, dead: str) -> None:
    ports = free_ports(2)
    desk.apply()

    def rounds(seconds: int) -> None:
        for _ in range(seconds // 30):
            desk.look_and_tell()
            desk.later(seconds=30)

    if dead == "webhook":
        with postman() as mail:
            with receiver(ports[0]) as hook:
                desk.channels = (hook.webhook(), mail.email())
            desk.fail_one()
            rounds(1800)
            assert len(mail.letters) == 1
            assert desk.incidents()[0].told["webhook"]["error"] == "127.0.0.1 refuses connections"
            with receiver(ports[0]) as hook:
                rounds(600)
                assert hook.events == ["opened"]
                desk.deliver()
                rounds(600)
                assert hook.events == ["opened", "cleared"]
            assert len(mail.letters) == 2
    else:
        with receiver() as hook:
            with postman(port=ports[0]) as mail:
                desk.channels = (mail.email(), hook.webhook())
            desk.fail_one()
            rounds(1800)
            assert hook.events == ["opened"]
            assert "refuses connections" in desk.incidents()[0].told["email"]["error"]
            with postman(port=ports[0]) as mail:
                rounds(600)
                desk.deliver()
                rounds(600)
            assert ["cleared" in str(letter["Subject"]) for letter in mail.letters] == [False, True]
            assert hook.events == ["opened", "cleared"]
    (incident,) = desk.incidents()
    assert incident.settled
    assert all("error" not in note for note in incident.told.values())


def test_a_dead_channel_is_asked_ever_less_often(desk: Desk) -> None:
    box = Letterbox(broken=Untold("down"))
    desk.apply()
    desk.fail_one()
    desk.channels = (box,)
    began, tried = desk.now, []
    for _ in range(80):
        if desk.look_and_tell():
            tried.append((desk.now - began).seconds)
        desk.later(seconds=30)
    assert tried[0] == 0
    assert tried[-1] - tried[-2] in (300, 330)
    assert len(tried) <= 12
    assert [pause(n).total_seconds() for n in (0, 1, 2, 3, 4, 999)] == [30, 60, 120, 240, 300, 300]


def test_what_cleared_while_a_channel_was_down_is_told_as_one_message(desk: Desk) -> None:
    box, other = Letterbox(broken=Untold("down")), Letterbox("other")
    desk.channels = (box, other)
    for name in ("one", "two", "three"):
        desk.apply(name)
        desk.fail_one(name)
    desk.look_and_tell()
    for name in ("one", "two", "three"):
        desk.deliver(name)
    desk.look_and_tell()
    assert [event for event, _ in other.got] == ["opened"] * 3 + ["cleared"] * 3
    box.broken = None
    for _ in range(20):
        desk.later(minutes=1)
        desk.look_and_tell()
    assert [event for event, _ in box.got] == ["cleared"] * 3
    assert all(i.settled for i in desk.incidents())


def test_what_opened_and_cleared_between_two_looks_is_not_told(desk: Desk) -> None:
    box = Letterbox()
    desk.apply()
    desk.fail_one()
    desk.look()
    desk.deliver()
    desk.look()
    desk.channels = (box,)
    assert desk.tell() == [] and box.got == []
    assert [i.settled for i in desk.incidents()] == [True]


def test_a_message_that_is_always_refused_does_not_stop_the_others(desk: Desk) -> None:
    box = Letterbox()
    for name in ("one", "two", "three"):
        desk.apply(name)
        desk.fail_one(name)
    desk.look()
    poison = desk.incidents()[-1].incident_id

    class Picky(Letterbox):
        def send(self, message: Any) -> str:
            if poison in message.message_id:
                raise Untold("that one never")
            return super().send(message)

    box = Picky()
    desk.channels = (box,)
    for _ in range(20):
        desk.tell()
        desk.later(seconds=30)
    assert len(box.got) == 2


def test_a_new_channel_hears_of_what_is_open_and_not_of_what_is_over(desk: Desk) -> None:
    old, new = Letterbox("old"), Letterbox("new")
    desk.channels = (old,)
    desk.apply("past")
    desk.fail_one("past")
    desk.look_and_tell()
    desk.deliver("past")
    desk.look_and_tell()
    desk.apply("present")
    desk.fail_one("present")
    desk.look_and_tell()
    desk.channels = (old, new)
    desk.look_and_tell()
    assert [event for event, _ in old.got] == ["opened", "cleared", "opened"]
    assert [event for event, _ in new.got] == ["opened"]


def test_somebody_without_channels_settles_nothing_that_others_have_to_tell(desk: Desk) -> None:
    box = Letterbox()
    desk.channels = (box,)
    desk.apply()
    desk.fail_one()
    desk.look_and_tell()
    desk.deliver()
    desk.channels = ()  # a cron line that forgot the settings
    desk.look_and_tell()
    desk.channels = (box,)
    desk.look_and_tell()
    assert [event for event, _ in box.got] == ["opened", "cleared"]


def test_a_person_who_pauses_hears_that_it_is_over(desk: Desk) -> None:
    box = Letterbox()
    desk.channels = (box,)
    desk.apply()
    desk.fail_one()
    desk.look_and_tell()
    desk.set(SyncState.PAUSED)
    desk.look_and_tell()
    desk.set(SyncState.ENABLED)
    desk.look_and_tell()
    assert [event for event, _ in box.got] == ["opened", "cleared"]


def test_many_who_tell_at_once_tell_it_once(any_desk: Desk) -> None:
    desk = any_desk
    for n in range(5):
        desk.apply(f"sync {n}")
        desk.fail_one(f"sync {n}")
    desk.look()
    with receiver() as hook:
        desk.channels = (hook.webhook(),)
        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(desk.tell) for _ in range(8)]:
                each.result()
        assert hook.events == ["opened"] * 5


TELL = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from isthmus.alerts import tell, watch
from isthmus.alerts.channels import Webhook
from isthmus.ledger.database import open_ledger
from isthmus.secrets import Secret

class Deadly(Webhook):
    def send(self, message):
        if "before" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        super().send(message)
        if "after" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        return ""

ledger, now = open_ledger(Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2])
watch.watch(ledger, now)
tell.tell(ledger, [Deadly(Secret(sys.argv[3]))], now)
"""


def _process(desk: Desk, url: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", TELL, desk.ledger.place, desk.now.isoformat(), url, *words])


def test_two_processes_at_once_do_not_double(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    with receiver() as hook:
        both = [_process(desk, hook.url) for _ in range(2)]
        assert [each.wait(60) for each in both] == [0, 0]
        assert hook.events == ["opened"]


@pytest.mark.parametrize(("when", "copies"), [("before", 1), ("after", 2)])
def test_a_process_killed_while_it_tells_loses_nothing(desk: Desk, when: str, copies: int) -> None:
    desk.apply()
    desk.fail_one()
    with receiver() as hook:
        assert _process(desk, hook.url, when).wait(60) == -9
        assert len(hook.posts) == copies - 1
        desk.channels = (hook.webhook(),)
        for _ in range(20):
            desk.look_and_tell()
            desk.later(seconds=30)
        assert hook.events == ["opened"] * copies
        assert len({headers["idempotency-key"] for _, headers, _ in hook.posts}) == 1
        desk.deliver()
        desk.look_and_tell()
        assert hook.events == ["opened"] * copies + ["cleared"]


def test_nobody_waits_for_a_channel_that_hangs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "DEADLINE_S", 0.1)
    done = threading.Event()

    class Hanging(Letterbox):
        def send(self, message: Any) -> str:
            done.wait(30)
            return super().send(message)

    slow, quick = Hanging("slow"), Letterbox("quick")
    desk.apply()
    desk.fail_one()
    desk.channels = (slow, quick)
    began = time.monotonic()
    told = desk.look_and_tell()
    assert time.monotonic() - began < 5
    assert told[0].error is not None and told[0].error.summary == "no answer within 0.1 s"
    assert [event for event, _ in quick.got] == ["opened"]
    done.set()


def test_an_error_nobody_thought_of_stops_nobody_and_says_no_secret(desk: Desk) -> None:
    box, other = Letterbox(broken=RuntimeError("hunter2")), Letterbox("other")
    desk.apply()
    desk.fail_one()
    desk.channels = (box, other)
    desk.look_and_tell()
    assert other.got
    note = desk.incidents()[0].told["letterbox"]
    assert note["error"] == "the channel broke: RuntimeError" and note["tries"] == 1


def test_telling_in_another_process_goes_on_where_this_one_was(desk: Desk) -> None:
    box = Letterbox()
    desk.channels = (box,)
    desk.apply()
    desk.fail_one()
    desk.look_and_tell()
    ledger = open_ledger(Path(desk.ledger.place))
    assert tell(ledger, (box,), desk.now + timedelta(hours=1)) == []
    ledger.close()
    assert len(box.got) == 1


def test_what_is_forgotten_meanwhile_is_no_error(desk: Desk) -> None:
    desk.apply()
    desk.fail_one()
    desk.look()
    (incident,) = desk.incidents()
    with desk.ledger.transaction() as tx:
        incidents.expect(tx, ["box"])
        assert incidents.claim(tx, "incident_none", "box", at=desk.now, until=desk.now) is None
        assert incidents.claim(tx, incident.incident_id, "other", at=desk.now, until=desk.now) is None
        incidents.mark_told(tx, "incident_none", "box", incidents.News.OPENED, desk.now)
        incidents.mark_untold(tx, "incident_none", "box", "down", at=desk.now, retry_at=desk.now)
