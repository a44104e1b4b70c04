"""Living a story in a process that may die at any moment: by its parent's hand, or by its own at a chosen seam.

A seam is a moment before or after something that makes a difference to others: a statement or commit of the store, a
file for the warehouse, a statement of a load, a commit of the ledger.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from isthmus import duck
from isthmus.actions import applying, people, syncing
from isthmus.app import App
from isthmus.exports import plan
from isthmus.imports import files
from isthmus.ledger import runs, syncs
from isthmus.ledger.database import Ledger
from isthmus.model.errors import InvalidInput
from isthmus.settings import Settings
from isthmus.store import upkeep
from isthmus.warehouses.duckdb import DuckDBWarehouse
from isthmus.warehouses.postgres import PostgresWarehouse
from long.story import EVENTS_MAPPING, EXPORT, PEOPLE_MAPPING, Step, Story, identifier


@dataclass(frozen=True)
class Home:
    """Where a story is lived: the settings as a person gives them, and the file to apply."""

    folder: Path
    environ: Mapping[str, str]
    applied: Path

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def settings(self) -> Settings:
        return Settings.load(self.environ)


@dataclass(frozen=True)
class Death:
    """Die in that step at the seam `seam`, when it is passed for the `number`-th time: odd numbers are before what the
    seam is about, even ones after it."""

    step: int
    seam: str
    number: int


def live(home: Home, story: Story, start: int, stop: int, death: Death | None, seed: int) -> None:
    """Take the steps from `start` to before `stop`, noting in the journal which was begun and which is done."""
    seams = Seams(death)
    chance = random.Random(seed)
    _watch(seams, chance)
    descriptor = os.open(home.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*words: object) -> None:
        os.write(descriptor, (json.dumps(words) + "\n").encode())

    note("open", start)
    with App(home.settings()) as app:
        for step in story.steps[start:stop]:
            seams.step, seams.passed = step.number, Counter()
            began = time.monotonic()
            note("begin", step.number)
            take(app, home, step)
            seams.pass_by("journal")
            note("done", step.number, dict(seams.passed), time.monotonic() - began)


def take(app: App, home: Home, step: Step) -> None:
    """One step, as the command line takes it."""
    match step.kind:
        case "make":
            app.lake.snapshot()
            applying.apply(app, home.applied, plan_only=False, environ={})
        case "land":
            assert step.file is not None
            people.load_file(app, step.file, "events", mapping_file=home.folder / "events.json")
        case "merge":
            assert step.file is not None
            people.load_file(app, step.file, "profiles", mapping_file=home.folder / "people.json")
        case "erase":
            assert step.person is not None
            try:
                people.erase_person(app, identifier("email", step.person))
            except InvalidInput as e:
                assert "nobody is known" in e.summary  # it was done when we died, before we could note it
        case "upkeep":
            # As it will be in three days: past states and the files of those who died on the way are due to go.
            with app.ledger.reading() as tx:
                reading = [a.snapshot_id for s in syncs.every(tx) if (a := runs.active(tx, s.sync_id))]
            upkeep.tidy(
                app.lake,
                retention=timedelta(hours=24),
                keep=lambda: reading,
                erase_now=True,
                now=app.now() + timedelta(days=3),
            )
        case "history" | "periodic":
            run = syncing.run_sync(app, EXPORT)
            assert run is None or run.kind.value == {"history": "historical"}.get(step.kind, step.kind)
            proof = syncing.verify_sync(app, EXPORT)
            assert proof.equal, [w for w in proof.windows if not w.equal]
        case "reactivate":
            syncing.reactivate_sync(app, EXPORT)


def prepare(home: Home) -> None:
    """Write what the steps need beside the files of the story."""
    home.folder.mkdir(parents=True, exist_ok=True)
    (home.folder / "events.json").write_text(json.dumps(EVENTS_MAPPING))
    (home.folder / "people.json").write_text(json.dumps(PEOPLE_MAPPING))


class Seams:
    """Counts the seams passed in a step, and ends the process at the chosen one."""

    def __init__(self, death: Death | None) -> None:
        self.death, self.step = death, -1
        self.passed: Counter[str] = Counter()

    def pass_by(self, seam: str) -> None:
        self.passed[seam] += 1
        if self.death == Death(self.step, seam, self.passed[seam]):
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def around(self, *seams: str) -> Iterator[None]:
        for seam in seams:
            self.pass_by(seam)
        yield
        for seam in seams:
            self.pass_by(seam)

    def wrapped(self, call: Callable[..., Any], *seams: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.around(*seams):
                return call(*args, **kwargs)

        return wrapper


class WatchedConnection:
    """The store's connection, with seams around its statements."""

    def __init__(self, con: Any, seams: Seams) -> None:
        self._con, self._seams = con, seams

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, sql: str, *args: Any) -> Any:
        seams = ["store statement"]
        if sql.startswith("COMMIT"):
            seams.append("store commit")
        if sql.startswith("COPY"):
            seams.append("spool file")
        if sql.startswith("CALL ducklake_"):
            seams.append("upkeep call")
        with self._seams.around(*seams):
            return self._con.execute(sql, *args)


def _watch(seams: Seams, chance: random.Random) -> None:
    """Put the seams in, and make batches and chunks small: their sizes are another each time, as after an upgrade."""
    connect = duck.connect
    duck.connect = lambda *args, **kwargs: WatchedConnection(connect(*args, **kwargs), seams)
    transaction = Ledger.transaction

    @contextmanager
    def watched(self: Ledger) -> Iterator[Any]:
        with transaction(self) as tx:
            yield tx
            seams.pass_by("ledger commit")
        seams.pass_by("ledger commit")

    Ledger.transaction = watched  # type: ignore[method-assign,assignment]
    for warehouse, names in ((DuckDBWarehouse, ["_execute"]), (PostgresWarehouse, ["_execute", "_ingest"])):
        for name in names:
            setattr(warehouse, name, seams.wrapped(getattr(warehouse, name), "load statement"))

    gathered = files._gathered_tables

    def sliced(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in gathered(tables):
            rows = max(chance.randrange(700, 1_500), table.num_rows // chance.randrange(2, 5))
            for at in range(0, table.num_rows, rows):
                yield table.slice(at, rows)

    files._gathered_tables = sliced
    for make in (plan.history, plan.changes, plan.replacing):
        assert make.__kwdefaults__ is not None and "limit" in make.__kwdefaults__
        make.__kwdefaults__["limit"] = chance.randrange(1_000, 40_000)
