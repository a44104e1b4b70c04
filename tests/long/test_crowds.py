"""Several processes at once on one home: each does its own, or says clearly that another is at it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from isthmus.actions import people, syncing
from isthmus.app import App
from isthmus.model.errors import IsthmusError
from long import child, killing, story
from long.child import Home, Seams

pytestmark = pytest.mark.long

PATIENCE_S = 60
COMPONENTS = (
    "SELECT e.unique_id, min(i.kind || ' ' || i.value) AS whose FROM events e "
    "JOIN identifiers i ON i.profile_id = e.profile_id WHERE i.kind <> 'profile_id' GROUP BY e.id, e.unique_id"
)
GROUPS = (
    "SELECT list(kind || ' ' || value ORDER BY kind, value) FROM identifiers WHERE kind <> 'profile_id' "
    "GROUP BY profile_id"
)


@pytest.fixture(params=["embedded", "scaled"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    if request.param == "embedded":
        return killing.embedded(tmp_path)
    return killing.scaled(tmp_path, request.getfixturevalue("postgres_server"), request.getfixturevalue("s3"))


def export(home: Home, start: Any, ended: Any, said: Any) -> None:
    """Run the sync when the other one is ready too; whoever begins goes on only when the other has ended."""
    with App(home.settings()) as app:
        app.lake.snapshot()
        start.wait(PATIENCE_S)
        try:
            run = syncing.run_sync(app, story.EXPORT, report=lambda run, done: ended.wait(PATIENCE_S))
            said.put(("ran", run is not None and run.rows_done))
        except IsthmusError as e:
            said.put((type(e).__name__, e.summary))
        ended.set()


def test_of_two_exporters_of_one_sync_exactly_one_works(home: Home, tmp_path: Path, told: list[str]) -> None:
    rounds = 8
    writer = story.Writer(tmp_path / "story", 3, story.Scale(people=100))
    writer.step("make")
    for _ in range(rounds):
        writer.events(".parquet", rows=500)
    writer.people(whole=True)
    written = writer.finished()
    killing.export_to_duckdb(home)
    child.prepare(home)
    outcomes: Counter[str] = Counter()
    for step in written.steps:
        with App(home.settings()) as app:
            child.take(app, home, step)
        if step.kind != "land":
            continue
        context = killing.context()
        start, ended, said = context.Barrier(2), context.Event(), context.Queue()
        both = [context.Process(target=export, args=(home, start, ended, said)) for _ in range(2)]
        for process in both:
            process.start()
        words = dict(said.get(timeout=PATIENCE_S) for _ in both)
        for process in both:
            process.join()
            process.close()
        said.close()
        assert set(words) == {"ran", "SyncBusy"}
        assert "under way" in words["SyncBusy"]  # seen before it began, or when both began at the same moment
        outcomes.update(words.keys())
    with App(home.settings()) as app:
        syncing.run_sync(app, story.EXPORT)
    assert not killing.found_wrong(home, written)
    told.append(f"two exporters at once: {dict(outcomes)}")


def hold(home: Home, begun: Any, ended: Any) -> None:
    def report(run: object, done: int) -> None:
        begun.set()
        ended.wait(PATIENCE_S)

    with App(home.settings()) as app:
        syncing.run_sync(app, story.EXPORT, report=report)


def test_the_command_says_that_another_process_is_at_it(home: Home, tmp_path: Path) -> None:
    writer = story.Writer(tmp_path / "story", 4, story.Scale(people=50))
    writer.step("make")
    writer.events(".csv", rows=100)
    written = writer.finished()
    killing.export_to_duckdb(home)
    child.prepare(home)
    with App(home.settings()) as app:
        for step in written.steps:
            child.take(app, home, step)
    context = killing.context()
    begun, ended = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(home, begun, ended))
    holder.start()
    assert begun.wait(PATIENCE_S)
    command = [str(Path(sys.executable).with_name("isthmus")), "sync", "run", story.EXPORT]
    told_in: dict[str, Any] = {"env": dict(home.environ), "capture_output": True, "text": True, "timeout": PATIENCE_S}
    done = subprocess.run([*command, "--json"], **told_in)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["error"], answer["retryable"]) == ("SyncBusy", True)
    assert "sync show" in answer["hint"]
    ended.set()
    holder.join()
    assert holder.exitcode == 0
    holder.close()
    done = subprocess.run(command, **told_in)
    assert (done.returncode, "nothing had changed" in done.stdout) == (0, True)


def load(home: Home, file: Path, start: Any, seed: int) -> None:
    child._watch(Seams(None), random.Random(seed))  # small batches, so that the two take turns
    with App(home.settings()) as app:
        app.lake.snapshot()
        start.wait(PATIENCE_S)
        people.load_file(app, file, "events", mapping_file=home.folder / "events.json")


def test_two_loaders_of_overlapping_files_end_as_one_after_the_other(
    home: Home, tmp_path: Path, told: list[str]
) -> None:
    writer = story.Writer(tmp_path / "story", 5, story.Scale(people=150))
    writer.step("make")
    for ending in (".csv", ".jsonl", ".parquet", ".csv", ".parquet", ".jsonl"):
        writer.events(ending, rows=3_000, again=0.5)
    writer.people(whole=True)
    writer.step("history")
    written = writer.finished()
    killing.export_to_duckdb(home)
    child.prepare(home)
    files = [step.file for step in written.steps if step.kind == "land" and step.file]
    with App(home.settings()) as app:
        child.take(app, home, written.steps[0])
    pairs = [*zip(files[::2], files[1::2], strict=True), (files[0], files[0])]
    for number, pair in enumerate(pairs):
        context = killing.context()
        start = context.Barrier(2)
        both = [context.Process(target=load, args=(home, f, start, number + i)) for i, f in enumerate(pair)]
        for process in both:
            process.start()
        for process in both:
            process.join()
            assert process.exitcode == 0
            process.close()
    alone = killing.embedded(tmp_path / "alone")
    killing.export_to_duckdb(alone)
    child.prepare(alone)
    with App(alone.settings()) as app:
        for step in written.steps[: len(files) + 1]:
            child.take(app, alone, step)
        expected = [sorted(app.lake.query(sql)) for sql in (COMPONENTS, GROUPS)]
    with App(home.settings()) as app:
        assert [sorted(app.lake.query(sql)) for sql in (COMPONENTS, GROUPS)] == expected
        for step in written.steps[len(files) + 1 :]:
            child.take(app, home, step)
    assert not killing.found_wrong(home, written)
    told.append(f"two loaders at once: {len(pairs)} pairs of overlapping files, equal to one after the other")
