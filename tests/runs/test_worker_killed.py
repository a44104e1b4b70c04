"""One process, killed a few times at work: every run ends, and no status lies. `tests/long` has the large one."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from isthmus.actions import syncing
from isthmus.app import App
from long import chaos, killing, story
from long.chaos import History, Notes, Watch, Workers
from long.child import take
from long.faulty import Trouble
from long.test_chaos import duckdb, export, set_up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds its processes by what Linux says")


def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chaos.in_small_commits(monkeypatch, 100)
    home = killing.embedded(tmp_path)
    writer = story.Writer(tmp_path / "story", 5, story.Scale(people=50))
    writer.step("make")
    writer.events(".csv", rows=500)
    written = writer.finished()
    set_up(home, [duckdb(home, "dwh")], [export("everything", "dwh")], Trouble(slow_s=(0.2, 0.3)))
    with App(home.settings()) as app:
        take(app, home, written.steps[1])
    notes, chance = Notes(), random.Random(5)
    watch = Watch(notes)
    workers = Workers(home, "serve", 1, notes, chance)
    try:
        with chaos.beside(notes, watch.watching(home)):
            for how in ("KILL", "STOP", "TERM", "KILL", "TERM", "KILL"):
                workers.there[0].wait_until_ready()
                time.sleep(chance.uniform(0.1, 0.8))
                workers.strike(how, (0.5, 0.6))
                while workers.frozen():
                    time.sleep(0.05)
                    workers.look_after()
            Trouble().write(home.folder)
            notes.wrong += chaos.settle(home, workers)
        workers.end()
    finally:
        workers.kill_all()
    with App(home.settings()) as app:
        assert syncing.verify_sync(app, "everything").equal
        history = History(app.ledger)
    notes.wrong += chaos.illegal(history)
    notes.wrong += chaos.takeovers(history, notes).wrong
    notes.wrong += chaos.overlapping(chaos.loads(home.folder, notes), chaos.limits(home))
    notes.wrong += chaos.found_wrong(home, None, [])
    assert not notes.wrong, "\n".join(dict.fromkeys(notes.wrong))
