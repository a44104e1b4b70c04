"""Workers are killed, frozen and cut off again and again while everything else goes on, and nothing ever lies.

200 times SIGKILL, SIGTERM or SIGSTOP: to the one process of an embedded home, and to three workers that share a
PostgreSQL and a bucket, both of which go away for a while too. The warehouses are in trouble themselves. Meanwhile
events land, people merge and are erased, and syncs are made due, paused, resumed, cancelled, verified and sent anew.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.actions import applying
from isthmus.app import App
from isthmus.ledger import workers as ledger_workers
from isthmus.testing import standins
from long import chaos, killing, story
from long.chaos import History, Notes, Watch, Workers
from long.child import Home, prepare
from long.faulty import Trouble
from long.pace import Pace, measured
from long.servers import crashing
from long.test_crashes import bucket_is_up, crashing_postgres
from long.till import Till, of_duckdb, of_postgres

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="crashes what it finds in /proc")]

BLOWS = int(os.environ.get("CHAOS_BLOWS", "100"))
"""Of each of the two tests; fewer, to see what a change does to them."""

TROUBLE = Trouble(before=0.04, after=0.04, slow_s=(0.05, 0.35))


def a_story(folder: Path, seed: int, *, rows: int, times: int) -> story.Story:
    w = story.Writer(folder, seed, story.Scale(people=100))
    w.step("make")
    w.events(".parquet", rows=4 * rows)
    for number in range(times):
        w.people(whole=False)
        w.events((".csv", ".jsonl", ".parquet")[number % 3], rows=rows)
        if number % 3 == 1:
            w.erase(1)
    w.people(whole=True)
    return w.finished()


def export(name: str, connection: str, **more: object) -> dict[str, object]:
    return {"name": name, "connection": connection, "schedule": "every 1m", **more}


def duckdb(home: Home, name: str) -> dict[str, object]:
    return {"name": name, "kind": "duckdb", "path": str(home.folder / f"{name}.duckdb")}


def postgres(server: standins.PostgresServer, name: str, database: str, concurrency: int) -> dict[str, object]:
    fields = {"host": server.host, "port": server.port, "username": server.username, "password": server.password}
    place = {"database": database, "schema": name}
    return {"name": name, "kind": "postgres", **fields, **place, "concurrency": concurrency}


def set_up(
    home: Home, connections: list[Any], exports: list[Any], trouble: Trouble, imports: Sequence[Any] = ()
) -> None:
    prepare(home)
    document = {"connections": connections, "exports": exports, "imports": list(imports)}
    home.applied.write_text(json.dumps(document))
    trouble.write(home.folder)
    with App(home.settings()) as app:
        app.lake.snapshot()
        applying.apply(app, home.applied, plan_only=False, environ={})
        chaos.keep_history(app.ledger)


def judge(
    home: Home,
    workers: Workers,
    notes: Notes,
    watch: Watch,
    told: list[str],
    what: str,
    *,
    written: story.Story | None,
    pace: Pace,
    till: Till | None = None,
    clocks: bool = True,
) -> None:
    """Let everything come to rest, and say what was wrong."""
    names = [e["name"] for e in json.loads(home.applied.read_text())["exports"]]
    began = time.monotonic()
    notes.wrong += chaos.settle(home, workers, till)
    settled_s = time.monotonic() - began
    workers.end()
    with App(home.settings()) as app:
        history = History(app.ledger)
        if till is not None:
            notes.wrong += till.found_wrong(app)
            notes.done["sold"] = till.sold
    took = chaos.takeovers(history, notes, pace)
    loads = chaos.loads(home.folder, notes)
    notes.wrong += chaos.illegal(history)
    notes.wrong += chaos.turned_back(history) if clocks else []
    notes.wrong += took.wrong
    notes.wrong += chaos.overlapping(loads, chaos.limits(home))
    notes.wrong += chaos.found_wrong(home, written, names)
    told.append(
        f"{what}: {len(notes.wrong)} things wrong, {watch.looks} looks, settled in {settled_s:.1f} s; "
        f"computing took {pace.usual():.1f} times as long as on a machine with nothing else to do"
    )
    told += [f"    {line}" for line in chaos.figures(history, loads, notes, took)]
    told += [f"    {line[:2000]}" for line in dict.fromkeys(notes.wrong)]
    assert not notes.wrong, f"{len(notes.wrong)} things wrong:\n" + "\n".join(dict.fromkeys(notes.wrong))


def test_one_process_that_is_killed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    chaos.in_small_commits(monkeypatch, 60)
    home = killing.embedded(tmp_path)
    written = a_story(tmp_path / "story", 1, rows=400, times=6)
    exports = [
        export("everything", "first"),
        export("events", "first", profiles=False, events={"metrics": "all"}, table_prefix="e_"),
        export("people", "second", events=False),
        export("again", "third"),
    ]
    shop = duckdb(home, "shop")
    till = Till(of_duckdb(str(shop["path"])), "shop", "KLAVIYO_IMPORT_FROM_DWH")
    connections = [*(duckdb(home, name) for name in ("first", "second", "third")), shop]
    set_up(home, connections, exports, TROUBLE, [till.wanted()])
    notes, chance = Notes(), random.Random(1)
    watch = Watch(notes)
    wanted = BLOWS

    def progress() -> float:
        return len(notes.blows) / wanted

    workers = Workers(home, "serve", 1, notes, chance)
    lives = [
        chaos.landing(home, written.steps[1:], notes, progress),
        chaos.meddling(home, notes, 1, reactivations=3),
        till.selling(1),
        watch.watching(home),
    ]
    try:
        with measured(tmp_path) as pace, chaos.beside(notes, *lives) as over:
            while len(notes.blows) < wanted:
                (worker,) = workers.there
                if chance.random() < 0.9:
                    worker.wait_until_ready()
                time.sleep(chance.uniform(0.05, 2.2))
                workers.strike(chance.choice(["KILL", "KILL", "TERM", "STOP"]), (1, 3))
                while workers.frozen():
                    time.sleep(0.05)
                    workers.look_after()
                in_trouble(home, len(notes.blows))
            finish(over, notes, written)
            Trouble().write(home.folder)
        judge(home, workers, notes, watch, told, "embedded", written=written, pace=pace, till=till)
    finally:
        workers.kill_all()


def in_trouble(home: Home, blows: int) -> None:
    """Now and then a time in which nobody may insert."""
    trouble = TROUBLE if blows % 25 < 22 else Trouble(before=0.04, after=0.04, slow_s=(0.05, 0.35), denied=0.5)
    trouble.write(home.folder)


def finish(over: threading.Event, notes: Notes, written: story.Story) -> None:
    """Wait until everything has landed."""
    deadline = time.monotonic() + 180
    while sum(notes.done[kind] for kind in ("land", "merge", "erase")) < len(written.steps) - 1:
        assert time.monotonic() < deadline, f"not everything has landed: {notes.done}; {notes.wrong}"
        time.sleep(0.1)


def test_three_workers_that_are_killed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    chaos.in_small_commits(monkeypatch, 100)
    written = a_story(tmp_path / "story", 2, rows=200, times=4)
    wanted = BLOWS
    with crashing_postgres() as (server, database), standins.s3() as bucket:
        port = bucket.endpoint.rpartition(":")[2]
        with crashing(f"-s3.port={port}", bucket_is_up(bucket)) as storage:
            home = killing.scaled(tmp_path, server, bucket)
            theirs = server.fresh_database()
            for schema in ("narrow", "wide", "shop"):
                server.execute(f"CREATE SCHEMA {schema}", database=theirs)
            connections = [
                postgres(server, "narrow", theirs, 1),
                postgres(server, "wide", theirs, 2),
                postgres(server, "shop", theirs, 1),  # of its own: what came from a connection is not sent back to it
                duckdb(home, "file"),
            ]
            exports = [
                export("everything", "wide"),
                export("events", "wide", profiles=False, events={"metrics": "all"}, table_prefix="e_"),
                export("alone", "narrow"),
                export("people", "narrow", events=False, table_prefix="p_"),
                export("filed", "file"),
            ]
            till = Till(of_postgres(server, theirs), "shop", "klaviyo_import_from_dwh")
            set_up(home, connections, exports, TROUBLE, [till.wanted()])
            notes, chance = Notes(), random.Random(2)
            watch = Watch(notes)

            def progress() -> float:
                return len(notes.blows) / wanted

            def outages(over: threading.Event) -> None:
                """The database crashes three times; the bucket is gone for 20 s once, and once it does not answer."""
                for at, what in (
                    (0.15, "database"),
                    (0.3, "bucket"),
                    (0.5, "database"),
                    (0.7, "silence"),
                    (0.85, "database"),
                ):
                    while progress() < at and not over.wait(0.1):
                        pass
                    with notes.outage(what):
                        if what == "silence":
                            storage.freeze()
                            time.sleep(20)
                            storage.thaw()
                            continue
                        crash = database if what == "database" else storage
                        crash.crash(signal.SIGQUIT if what == "database" else signal.SIGKILL)
                        time.sleep(chance.uniform(0.5, 3) if what == "database" else 20)
                        crash.restart()
                        time.sleep(2)  # until everybody has noticed

            workers = Workers(home, "worker", 3, notes, chance)
            lives = [
                chaos.landing(home, written.steps[1:], notes, progress),
                chaos.meddling(home, notes, 2, reactivations=2),
                till.selling(2),
                watch.watching(home),
                outages,
            ]
            try:
                with measured(tmp_path) as pace, chaos.beside(notes, *lives) as over:
                    while len(notes.blows) < wanted:
                        time.sleep(chance.uniform(0.2, 3.2))
                        workers.look_after()
                        how = chance.choice(["KILL", "KILL", "TERM", "STOP"])
                        workers.strike("KILL" if how == "STOP" and workers.frozen() else how, (12, 15))
                        in_trouble(home, len(notes.blows))
                    finish(over, notes, written)
                    Trouble().write(home.folder)
                judge(home, workers, notes, watch, told, "scaled", written=written, pace=pace, till=till)
            finally:
                workers.kill_all()


@pytest.mark.parametrize("mode", ["embedded", "scaled"])
def test_a_clock_that_jumps_by_a_day(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, told: list[str]
) -> None:
    chaos.in_small_commits(monkeypatch, 100)
    home = killing.embedded(tmp_path)
    if mode == "scaled":
        home = killing.scaled(tmp_path, request.getfixturevalue("postgres_server"), request.getfixturevalue("s3"))
    trouble = Trouble(before=0.1, slow_s=(0.05, 0.2))
    set_up(
        home,
        [duckdb(home, "first"), duckdb(home, "second")],
        [export("one", "first"), export("two", "second")],
        trouble,
    )
    written = a_story(tmp_path / "story", 3, rows=200, times=3)
    notes, chance = Notes(), random.Random(3)
    watch = Watch(notes)
    phases = [0.0, 86_400.0, 0.0, -86_400.0, 0.0]
    begun: list[float] = []

    def progress() -> float:
        return len(begun) / len(phases)

    workers = Workers(home, *(("serve", 1) if mode == "embedded" else ("worker", 3)), notes, chance)
    try:
        landing = chaos.landing(home, written.steps[1:], notes, progress)
        with measured(tmp_path) as pace, chaos.beside(notes, landing) as over:
            for worker in workers.there:
                worker.wait_until_ready()
            ids = worker_ids(home)
            with App(home.settings()) as app:
                for off_s in phases:
                    replace(trouble, clock_off_s=off_s).write(home.folder)
                    begun.append(time.time())
                    chaos.make_due(app, None)
                    waited = wait_for_runs(app, home, begun[-1], notes)
                    told.append(f"clock {mode}, off by {off_s:.0f} s: everything was delivered after {waited:.1f} s")
                    workers.look_after()
            finish(over, notes, written)
            replace(Trouble(), clock_off_s=0.0).write(home.folder)
            if worker_ids(home) != ids:
                notes.wrong.append("somebody was taken for dead")
        judge(home, workers, notes, watch, told, f"clock, {mode}", written=written, pace=pace, clocks=False)
    finally:
        workers.kill_all()


def worker_ids(home: Home) -> set[str]:
    with App(home.settings()) as app, app.ledger.reading() as tx:
        return {w.worker_id for w in ledger_workers.every(tx) if w.takes_runs}


def wait_for_runs(app: App, home: Home, since: float, notes: Notes) -> float:
    """Until the schedule has brought each sync to the end of a run since then."""
    while True:
        time.sleep(0.2)
        took = time.time() - since
        history = History(app.ledger)
        ended: dict[str, set[str]] = {}
        for noted in history.of["runs"]:
            if noted.at > since and noted.row["state"] == "completed":
                ended.setdefault(noted.row["sync_id"], set()).add(noted.row["run_id"])
        if len(ended) == 2:
            return took
        if took > 75:
            notes.wrong.append(f"after a jump of the clock, {ended} had been run after {took:.0f} s")
            return took
