"""A home that lives while its workers are killed, frozen and cut off, and what must be true of it all the time.

* `Workers` starts them and sends them signals; it knows when which process was not to be counted on.
* `Life` is what people do meanwhile: land, merge and erase; pause, resume, cancel, reactivate and verify.
* `Watch` looks at the ledger all the time and keeps whatever a status said that was not so.
* `History` is every change of a run, lane and sync, kept by triggers, and judged at the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from isthmus.actions import syncing
from isthmus.app import App
from isthmus.imports import files
from isthmus.ledger import runs as runs_ledger
from isthmus.ledger import schema, syncs
from isthmus.ledger.database import POSTGRESQL_SCHEMA, Ledger
from isthmus.model.errors import InvalidInput, IsthmusError
from isthmus.model.work import ACTIVE, GOING, LaneState, Sync, SyncState
from long import faulty, killing
from long.child import Home, take
from long.pace import Pace
from long.story import Step, Story
from long.till import Till

PATIENCE_S = 60
TAKEN_UP_S = 15.0
"""How long a run may say that it is running after its worker was killed or frozen."""

WORK_S = 1.0
"""What a process computes until it is up and has looked after the others, on a core of its own."""

HOW = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "STOP": signal.SIGSTOP}


@dataclass
class Blow:
    """Something done to a worker: from `at` on it was not to be counted on, until `until` (None: for ever)."""

    how: str
    process_id: int
    at: float
    until: float | None = None


@dataclass
class Outage:
    """A server was away, or everybody was."""

    what: str
    at: float
    until: float


@dataclass
class Notes:
    """What was done, and what was found wrong, by all threads of the test."""

    blows: list[Blow] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def kills(self) -> str:
        counts = Counter(blow.how for blow in self.blows)
        return ", ".join(f"{n} SIG{how}" for how, n in sorted(counts.items()))

    @contextmanager
    def outage(self, what: str) -> Iterator[None]:
        kept = Outage(what, time.time(), time.time() + 1e9)
        self.outages.append(kept)
        try:
            yield
        finally:
            kept.until = time.time()


# Workers


class Worker:
    """One process."""

    def __init__(self, home: Home, role: str, seed: int, notes: Notes) -> None:
        self._notes = notes
        arguments = [role, "--json", *(["--port", "0"] if role == "serve" else [])]
        environ = {**home.environ, "ISTHMUS_LOG_FORMAT": "json"}
        self.process = killing.context().Process(target=faulty.work, args=(environ, arguments, home.folder, seed))
        self.process.start()
        self.process_id: int = self.process.pid
        self.asked_at = 0.0
        self._said = home.folder / f"said-{self.process_id}"
        self.frozen: Blow | None = None
        self.thaw_at = 0.0

    def is_ready(self) -> bool:
        return self._said.exists() and b'"ready"' in self._said.read_bytes()

    def could_not_start(self) -> bool:
        """Whether it ended before it was up and said that trying again will help: what starts it does."""
        return not self.is_ready() and self._said.exists() and b'"retryable": true' in self._said.read_bytes()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_ready():
            assert self.process.is_alive(), f"a worker ended with {self.process.exitcode} before it was ready"
            assert time.monotonic() < deadline, "a worker is not ready"
            time.sleep(0.02)

    def give_time(self, seconds: float) -> None:
        """Wait so long for it to be up, which it cannot be while a server is away."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive() and not self.is_ready() and time.monotonic() < deadline:
            time.sleep(0.02)

    def kill(self) -> None:
        self._notes.blows.append(Blow("KILL", self.process_id, time.time()))
        self.process.kill()
        self.process.join()

    def terminate(self) -> None:
        """Ask it to end; `ended` says whether it did in order."""
        self.asked_at = time.time()
        self._notes.blows.append(Blow("TERM", self.process_id, self.asked_at))
        self.process.terminate()

    def ended(self, patience_s: float = 75) -> int | None:
        self.process.join(patience_s)
        code: int | None = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        return code

    def freeze(self) -> None:
        self.frozen = Blow("STOP", self.process_id, time.time())
        self._notes.blows.append(self.frozen)
        os.kill(self.process_id, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.frozen is not None
        os.kill(self.process_id, signal.SIGCONT)
        self.frozen.until = time.time()
        self.frozen = None


class Workers:
    """`count` workers of a home; each that is killed is replaced at once."""

    def __init__(self, home: Home, role: str, count: int, notes: Notes, chance: random.Random) -> None:
        self._home, self._role, self._notes, self._chance = home, role, notes, chance
        self.there = [self._new() for _ in range(count)]
        self._leaving: list[Worker] = []

    def _new(self) -> Worker:
        return Worker(self._home, self._role, self._chance.randrange(1 << 30), self._notes)

    def strike(self, how: str, freeze_s: tuple[float, float]) -> None:
        """Do that to one of them; with one worker, wait until it is over."""
        awake = [w for w in self.there if w.frozen is None]
        worker = self._chance.choice(awake)
        if self._chance.random() < 0.85:  # most of them when they are at work, and a few before they are up
            worker.give_time(15)
        if how == "STOP":
            worker.freeze()
            worker.thaw_at = time.time() + self._chance.uniform(*freeze_s)
            return
        at = self.there.index(worker)
        if how == "KILL":
            worker.kill()
        else:
            worker.terminate()
            self._leaving.append(worker)
            if len(self.there) == 1:  # the next one may only come when this one is gone
                self._check_left(wait=True)
        self.there[at] = self._new()

    def look_after(self) -> None:
        """Thaw who has been frozen for long enough, and see that who was to end has."""
        for worker in self.there:
            if worker.frozen and time.time() > worker.thaw_at:
                worker.thaw()
            if worker.frozen is None and not worker.process.is_alive():
                self._ended(worker, f"a worker ended by itself with {worker.process.exitcode}")
                self.there[self.there.index(worker)] = self._new()
        self._check_left(wait=False)

    def frozen(self) -> int:
        return sum(w.frozen is not None for w in self.there)

    def _check_left(self, *, wait: bool) -> None:
        for worker in list(self._leaving):
            if wait or not worker.process.is_alive() or time.time() - worker.asked_at > 120:
                self._leaving.remove(worker)
                code = worker.ended()
                # Before it is up, a process has no way to end in order yet.
                if code != 0 and not (code == -signal.SIGTERM and not worker.is_ready()):
                    self._ended(worker, f"a worker that was asked to end ended with {code}")

    def _ended(self, worker: Worker, how: str) -> None:
        if worker.could_not_start() and self._role == "worker":  # PostgreSQL is away, or has no connection to spare
            self._notes.done["start met StoreAway"] += 1
        else:
            self._notes.wrong.append(how)

    def end(self) -> None:
        """Ask all to end, in order."""
        for worker in self.there:
            if worker.frozen:
                worker.thaw()
            worker.process.terminate()
        self._leaving += self.there
        self.there = []
        self._check_left(wait=True)

    def kill_all(self) -> None:
        for worker in [*self.there, *self._leaving]:
            worker.process.kill()
            worker.process.join()


# Life


@contextmanager
def beside(notes: Notes, *lives: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Have all this done on threads until the end of the context; what they raise is wrong."""
    over = threading.Event()

    def live(one: Callable[[threading.Event], None]) -> None:
        try:
            one(over)
        except BaseException as e:
            notes.wrong.append(f"{one.__qualname__} ended: {type(e).__name__}: {e}")
            raise

    threads = [threading.Thread(target=live, args=(one,), daemon=True) for one in lives]
    for thread in threads:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def landing(home: Home, steps: Sequence[Step], notes: Notes, progress: Callable[[], float]) -> Any:
    """Take the steps, spread over the time, each again until nothing is in its way."""

    def land(over: threading.Event) -> None:
        for number, step in enumerate(steps):
            while progress() < number / len(steps) and not over.wait(0.05):
                pass
            while True:
                try:
                    with App(home.settings()) as app:
                        take(app, home, step)
                    break
                except IsthmusError as e:
                    notes.done[f"landing met {type(e).__name__}"] += 1
                    if not e.retryable:
                        notes.wrong.append(f"landing met {e.code}: {e.summary}: {e.vendor}")
                        if not notes.outages:
                            raise
                    time.sleep(0.5)
            notes.done[step.kind] += 1

    return land


def meddling(home: Home, notes: Notes, seed: int, *, reactivations: int, pace_s: float = 0.6) -> Any:
    """Make syncs due, pause and resume them, cancel runs, verify, and ask for the history again."""
    chance = random.Random(seed)
    verbs = ["due"] * 12 + ["pause"] * 2 + ["resume"] * 3 + ["cancel"] + ["verify"] * 2 + ["reactivate"]
    left = [reactivations]

    def meddle(over: threading.Event) -> None:
        with App(home.settings()) as app:
            while not over.wait(chance.uniform(0.3, 1.7) * pace_s):
                with suppress(IsthmusError):  # the ledger may be away
                    one = chance.choice(every_sync(app))
                    verb = chance.choice(verbs)
                    if verb == "reactivate" and left[0] <= 0:
                        verb = "due"
                    do(app, one.name, verb)

    def do(app: App, name: str, verb: str) -> None:
        try:
            match verb:
                case "due":
                    make_due(app, None if chance.random() < 0.7 else name)
                case "pause":
                    syncing.pause_sync(app, name)
                case "resume":
                    for sync in every_sync(app):
                        if sync.state is SyncState.PAUSED:
                            syncing.resume_sync(app, sync.name)
                case "cancel":
                    active = [r for r in syncing.list_runs(app, sync=name, limit=3) if r.active]
                    for run in active:
                        syncing.cancel_run(app, run.run_id)
                    verb = verb if active else "cancel nothing"
                case "reactivate":
                    left[0] -= 1
                    syncing.reactivate_sync(app, name)
                case "verify":
                    proof = syncing.verify_sync(app, name)
                    if not proof.equal:
                        notes.wrong.append(f"verify of {name} in between: {[w for w in proof.windows if not w.equal]}")
        except IsthmusError as e:
            verb += f" met {type(e).__name__}"
            if not isinstance(e, InvalidInput) and not e.retryable:
                notes.wrong.append(f"{verb} of {name}: {e.summary}")
        notes.done[verb] += 1

    return meddle


def every_sync(app: App) -> list[Sync]:
    with app.ledger.reading() as tx:
        return syncs.every(tx)


def make_due(app: App, name: str | None) -> None:
    """As if the time had come, for all syncs or one."""
    table = schema.syncs
    with app.ledger.transaction() as tx:
        query = table.update().where(table.c.state == SyncState.ENABLED).values(next_due=None)
        tx.execute(query if name is None else query.where(table.c.name == name))


# Watching


@dataclass
class Watch:
    """What the ledger says, looked at again and again, each time at one moment."""

    notes: Notes
    looks: int = 0
    _since: dict[tuple[str, str], float] = field(default_factory=dict)

    def watching(self, home: Home) -> Any:
        def watch(over: threading.Event) -> None:
            with App(home.settings()) as app:
                while not over.wait(0.04):
                    with suppress(IsthmusError):
                        self._look(app.ledger)

        return watch

    def _look(self, ledger: Ledger) -> None:
        with ledger.reading() as tx:
            found = tx.execute(select(schema.runs).where(schema.runs.c.state.in_(ACTIVE))).all()
            ids = [r.run_id for r in found]
            lanes = tx.execute(select(schema.lanes).where(schema.lanes.c.state != LaneState.IDLE)).all()
            plans = tx.execute(select(schema.chunks).where(schema.chunks.c.run_id.in_(ids))).all()
            errors = set(tx.scalars(select(schema.run_errors.c.run_id)))
        self.looks += 1
        says: set[tuple[str, str]] = set()
        if len({r.sync_id for r in found}) < len(found):
            self.notes.wrong.append("two active runs of one sync")
        going = {lane.run_id for lane in lanes if lane.state == LaneState.GOING}
        queued = {lane.run_id for lane in lanes if lane.state == LaneState.QUEUED}
        done: defaultdict[str, int] = defaultdict(int)
        for chunk in plans:
            done[chunk.run_id] += chunk.rows if chunk.done else 0
        for r in found:
            lies = {
                "running, but nobody is at it": r.state == "running" and r.run_id not in going,
                "scheduled, but somebody is at it": r.state == "scheduled" and r.run_id in going,
                "scheduled, but nothing waits": r.state == "scheduled" and r.run_id not in queued,
                "retrying, but nothing waits": r.state == "retrying" and r.run_id not in queued,
                "retrying, but nobody knows when": (r.state == "retrying") != (r.retry_at is not None),
                "retrying without an error": r.state == "retrying" and r.run_id not in errors,
                "running, but never started": r.state == "running" and r.started_at is None,
                "active and finished": r.finished_at is not None,
                f"{r.rows_done} rows done, its chunks {done[r.run_id]}": r.rows_done != done[r.run_id],
                "more rows done than there are": r.planned and r.rows_done > r.rows_total,
            }
            for lie, is_so in lies.items():
                if is_so:
                    self.notes.wrong.append(f"{r.run_id} ({r.kind}): {lie}")
            if r.state == "retrying" and r.retry_at < datetime.now(UTC):
                says.add((r.run_id, "retrying"))
        # A while of its own: everybody may be away, or there is no room at the connection.
        self._since = {one: self._since.get(one, time.time()) for one in says}


# History

_TABLES = {"runs": schema.runs, "lanes": schema.lanes, "syncs": schema.syncs, "workers": schema.workers}


def keep_history(ledger: Ledger) -> None:
    """Have the database note every change of runs, lanes, syncs, and who the workers are."""
    with ledger.transaction() as tx:
        if tx.dialect.name == "postgresql":
            tx.execute(text(
                "CREATE TABLE history (n BIGSERIAL PRIMARY KEY, at DOUBLE PRECISION NOT NULL, what TEXT NOT NULL, "
                "verb TEXT NOT NULL, tx TEXT NOT NULL, row TEXT NOT NULL)"
            ))  # fmt: skip
            tx.execute(text(
                "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"INSERT INTO {POSTGRESQL_SCHEMA}.history (at, what, verb, tx, row) VALUES ("
                "extract(epoch FROM clock_timestamp()), TG_TABLE_NAME, lower(TG_OP), "
                "pg_current_xact_id()::text, to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END)::text); "
                "RETURN NULL; END $$"
            ))  # fmt: skip
            for name in _TABLES:
                verbs = "INSERT OR DELETE" if name == "workers" else "INSERT OR UPDATE OR DELETE"
                tx.execute(text(f"CREATE TRIGGER noted AFTER {verbs} ON {name} FOR EACH ROW EXECUTE FUNCTION note()"))
            return
        tx.execute(text(
            "CREATE TABLE history (n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, what TEXT NOT NULL, "
            "verb TEXT NOT NULL, tx TEXT, row TEXT NOT NULL)"
        ))  # fmt: skip
        for name, table in _TABLES.items():
            for verb in ("insert", "delete") if name == "workers" else ("insert", "update", "delete"):
                side = "OLD" if verb == "delete" else "NEW"
                row = ", ".join(f"'{c.name}', {side}.{c.name}" for c in table.columns)
                tx.execute(text(
                    f"CREATE TRIGGER noted_{name}_{verb} AFTER {verb.upper()} ON {name} BEGIN "
                    "INSERT INTO history (at, what, verb, row) VALUES ((julianday('now') - 2440587.5) * 86400.0, "
                    f"'{name}', '{verb}', json_object({row})); END"
                ))  # fmt: skip


@dataclass(frozen=True)
class Noted:
    """One change: the row as it is after it."""

    n: int
    at: float
    verb: str
    row: Mapping[str, Any]


class History:
    """All changes, in order."""

    def __init__(self, ledger: Ledger) -> None:
        self.of: dict[str, list[Noted]] = {name: [] for name in _TABLES}
        with ledger.reading() as tx:
            for n, at, what, verb, row in tx.execute(text("SELECT n, at, what, verb, row FROM history ORDER BY n")):
                self.of[what].append(Noted(n, at, verb, json.loads(row)))
            self.chunks = {
                c.batch_id: c for c in tx.execute(select(schema.chunks)).all()
            }  # of runs that are still known

    def by(self, what: str, *key: str) -> dict[tuple[Any, ...], list[Noted]]:
        found: defaultdict[tuple[Any, ...], list[Noted]] = defaultdict(list)
        for noted in self.of[what]:
            found[tuple(noted.row[k] for k in key)].append(noted)
        return found

    def process_of(self) -> dict[str, int]:
        """Which process had which worker id."""
        there = [n.row for n in self.of["workers"] if n.verb == "insert"]
        return {row["worker_id"]: int(row["place"].rpartition(" ")[2]) for row in there}


_AFTER: Mapping[str, set[str]] = {
    "": {"scheduled", "running"},
    "scheduled": {"running", "paused", "cancelled", "failed"},
    "running": {"scheduled", "retrying", "failed", "paused", "cancelled", "completed"},
    "retrying": {"running", "scheduled", "failed", "paused", "cancelled"},
    "failed": {"scheduled", "cancelled"},
    "paused": {"scheduled", "cancelled"},
    "completed": set(),
    "cancelled": set(),
}


def illegal(history: History) -> Iterator[str]:
    """Changes that must not be."""
    for (run_id,), changes in history.by("runs", "run_id").items():
        was: Mapping[str, Any] = {"state": "", "rows_done": 0, "bytes_done": 0}
        for noted in changes:
            row = noted.row
            if noted.verb == "delete":
                continue
            if row["state"] != was["state"] and row["state"] not in _AFTER[was["state"]]:
                yield f"{run_id}: {was['state']} became {row['state']}"
            if was["state"] in ("completed", "cancelled") and row["state"] == was["state"] and row != was:
                changed = {k for k in row if row[k] != was.get(k)}
                # A worker that did not know may still say what is in the warehouse, or what an import has landed: that
                # may be more or less than was planned, and then the total is another too.
                if not changed <= {"closing", "rows_done", "rows_total", "bytes_done", "tries"}:
                    yield f"{run_id}: {was['state']}, and changed: {changed}"
            for name in ("rows_done", "bytes_done"):
                if row[name] < was[name]:
                    yield f"{run_id}: {name} fell"
            if was.get("planned") and row["seqs_upto"] != was["seqs_upto"]:
                yield f"{run_id}: its window changed"
            if was.get("started_at") and row["started_at"] != was["started_at"]:
                yield f"{run_id}: its start changed"
            if row["state"] == "completed" and row["rows_done"] != row["rows_total"]:
                yield f"{run_id}: completed with {row['rows_done']} of {row['rows_total']} rows"
            over = row["state"] in ("completed", "cancelled", "failed")
            if over != (row["finished_at"] is not None):
                yield f"{run_id}: {row['state']}, finished at {row['finished_at']}"
            was = row
    for (sync_id,), changes in history.by("syncs", "sync_id").items():
        before: Mapping[str, Any] | None = None
        for noted in changes:
            row = noted.row
            if before is not None:
                if row["generation"] < before["generation"]:
                    yield f"{sync_id}: its generation went back"
                if row["generation"] == before["generation"]:
                    if row["watermark"] < before["watermark"]:
                        yield f"{sync_id}: its watermark went back"
                    if before["connected_seq"] is not None and row["connected_seq"] != before["connected_seq"]:
                        yield f"{sync_id}: its scope changed"
            before = row


def turned_back(history: History) -> Iterator[str]:
    """Clocks that went back: only for those who have seen no clock jump."""
    for (sync_id,), changes in history.by("syncs", "sync_id").items():
        fresh: dict[int, str] = {}
        for noted in changes:
            row = noted.row
            if row["fresh_at"] and row["fresh_at"] < fresh.get(row["generation"], ""):
                yield f"{sync_id}: its freshness went back"
            if row["fresh_at"]:
                fresh[row["generation"]] = row["fresh_at"]
                if moment(row["fresh_at"]) > noted.at + 0.1:
                    yield f"{sync_id}: fresher than now"
    for (run_id,), changes in history.by("runs", "run_id").items():
        row = changes[-1].row
        times = [row[k] for k in ("scheduled_at", "started_at", "finished_at") if row[k]]
        if [moment(t) for t in times] != sorted(moment(t) for t in times):
            yield f"{run_id}: scheduled, started, finished at {times}"


def moment(value: str) -> float:
    found = datetime.fromisoformat(value)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


@dataclass
class Takeovers:
    """How long it took until lanes of workers that were struck were free again, and until somebody was at them."""

    released: list[float] = field(default_factory=list)
    taken_up: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def takeovers(history: History, notes: Notes, pace: Pace | None = None) -> Takeovers:
    """What became of the lanes at which a worker was when it was killed, or frozen for longer than others wait.

    Without the ledger nobody can take up anything; without the bucket the lanes must be free all the same.
    """
    process_of = history.process_of()
    found = Takeovers()
    blows: defaultdict[int, list[Blow]] = defaultdict(list)
    for blow in notes.blows:
        blows[blow.process_id].append(blow)
    over: dict[str, list[tuple[float, str]]] = {
        run_id: [(n.at, n.row["state"]) for n in changes] for (run_id,), changes in history.by("runs", "run_id").items()
    }
    for (run_id, lane), changes in history.by("lanes", "run_id", "lane").items():
        for at, noted in enumerate(changes):
            if noted.row["state"] != LaneState.GOING or noted.row["worker_id"] not in process_of:
                continue
            later = changes[at + 1 :]
            release = next((n for n in later if (n.row["state"], n.row["worker_id"]) != _who(noted)), None)
            for blow in blows[process_of[noted.row["worker_id"]]]:
                if blow.how == "TERM" or blow.at < noted.at or (release and release.at < blow.at):
                    continue
                end = release.at if release else time.time()
                if blow.until is not None and end > blow.until:
                    continue  # thawed before anybody minded
                state = next((s for t, s in reversed(over[run_id]) if t <= blow.at), "")
                if state not in GOING:
                    continue  # paused or ended: nobody is to take it up
                took = end - blow.at - _away(notes, blow.at, end, "database")
                found.released.append(took)
                late = pace.late_s(blow.at, end, WORK_S) if pace else 0.0
                if took > TAKEN_UP_S + late:
                    said = f"nobody minded for {took:.1f} s ({blow.how}), of which the machine took {late:.1f} s"
                    found.wrong.append(f"{run_id} lane {lane}: {said}")
                again = next((n for n in later if n.row["state"] == LaneState.GOING and n.at >= end), None)
                stopped = again and any(blow.at < t < again.at and s not in GOING for t, s in over[run_id])
                if again is not None and not stopped:
                    found.taken_up.append(again.at - blow.at - _away(notes, blow.at, again.at))
    return found


def _who(noted: Noted) -> tuple[str, str]:
    return noted.row["state"], noted.row["worker_id"]


def _away(notes: Notes, start: float, end: float, what: str = "") -> float:
    which = [o for o in notes.outages if what in ("", o.what)]
    return sum(max(0.0, min(end, o.until) - max(start, o.at)) for o in which)


# Loads


@dataclass
class Load:
    """One call of a warehouse: when it began and, if that is known, ended."""

    batch: str
    place: str
    process_id: int
    begin: float
    end: float
    outcome: str = "unknown"
    empty: bool = False

    @property
    def sync_id(self) -> str:
        return self.batch.split(".")[0]

    @property
    def run_id(self) -> str:
        return next(part for part in self.batch.split(".") if part.startswith("run_"))


def loads(folder: Path, notes: Notes) -> list[Load]:
    """All loads, each only for as long as its worker was to be counted on."""
    found: list[Load] = []
    under_way: dict[tuple[int, int], Load] = {}
    for line in (folder / "loads").read_text().splitlines():
        said = json.loads(line)
        who = (said["process"], said["thread"])
        match said["what"]:
            case "begin":
                load = Load(said["batch"], said["place"], who[0], said["at"], 1e12, empty=said["empty"])
                under_way[who] = load
                found.append(load)
            case "end":
                ended = under_way.pop(who)
                ended.end, ended.outcome = said["at"], said["outcome"]
            case outcome:
                under_way[who].outcome = outcome
    for load in found:
        for blow in notes.blows:
            longer = blow.until is None or blow.until - blow.at > 8
            if (
                blow.process_id == load.process_id
                and blow.how != "TERM"
                and longer
                and load.begin <= blow.at < load.end
            ):
                load.end = blow.at
    return found


def overlapping(found: Sequence[Load], limits: Mapping[str, int]) -> Iterator[str]:
    """What was loaded at the same time and must not be; and what was loaded twice."""
    applied = Counter(load.batch for load in found if load.outcome == "applied")
    yield from (f"{batch} was applied {n} times" for batch, n in applied.items() if n > 1)
    ends = sorted([(x.begin, 1, n) for n, x in enumerate(found)] + [(x.end, 0, n) for n, x in enumerate(found)])
    going: dict[int, Load] = {}
    for _, begins, number in ends:
        one = found[number]
        if not begins:
            going.pop(number, None)
            continue
        if one.end <= one.begin:
            continue
        for other in going.values():
            same_run = one.run_id == other.run_id
            if one.sync_id == other.sync_id and not one.empty and (not same_run or one.batch == other.batch):
                yield f"two loads of one sync at once: {one} and {other}"
        going[number] = one
        at_once = sum(x.place == one.place for x in going.values())
        if at_once > limits[one.place]:
            yield f"{at_once} loads at once at {one.place}: {[x for x in going.values() if x.place == one.place]}"


# The end


def settle(home: Home, workers: Workers, till: Till | None = None, patience_s: float = 120) -> list[str]:
    """No more trouble: resume everything, and wait until every sync has got as far as the store, and the store as far
    as the till. What did not."""
    workers.look_after()
    for worker in workers.there:
        if worker.frozen:
            worker.thaw()
    with App(home.settings()) as app:
        deadline = time.monotonic() + patience_s
        left: list[str] = []
        made_due = 0.0
        while time.monotonic() < deadline:
            workers.look_after()
            left = [] if till is None or till.arrived(app) else ["not all that was sold has arrived"]
            newest = app.lake.snapshot().seq
            for sync in every_sync(app):
                if sync.state is SyncState.PAUSED:
                    syncing.resume_sync(app, sync.name)
                (run, *_) = [*syncing.list_runs(app, sync=sync.name, limit=1), None]
                state = run.state if run else "none"
                if (sync.watermark < newest and sync.intake is None) or (run and run.active):
                    left.append(f"{sync.name} is at {sync.watermark} of {newest}, its newest run {state}")
            if not left:
                return []
            if time.monotonic() > made_due + 5:
                made_due = time.monotonic()
                make_due(app, None)
            time.sleep(0.2)
        return [f"not settled after {patience_s} s: {one}" for one in left]


def found_wrong(home: Home, story: Story | None, names: Sequence[str]) -> list[str]:
    """All that is not as it must be when everything has ended and no worker is there any more."""
    wrong = []
    if story is not None:
        for name in names:
            wrong += [f"{name}: {w}" for w in killing.found_wrong(home, story, name)]
    with App(home.settings()) as app, app.ledger.reading() as tx:
        for sync in syncs.every(tx):
            if sync.fresh_at and sync.fresh_at > datetime.now(UTC):
                wrong.append(f"{sync.name} is fresh as of {sync.fresh_at}, which is yet to come")
        for lane in tx.execute(select(schema.lanes).where(schema.lanes.c.state != LaneState.IDLE)):
            wrong.append(f"a lane is {lane.state}: {lane}")
        for worker in tx.execute(select(schema.workers)):
            wrong.append(f"a worker was forgotten: {worker}")
        engine = "isthmus_engine.workflow_status" if tx.dialect.name == "postgresql" else "workflow_status"
        going = text(f"SELECT workflow_uuid, status FROM {engine} WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED')")
        wrong += [f"the engine has an attempt: {row}" for row in tx.execute(going)]
        for sync in syncs.every(tx):
            if runs_ledger.active(tx, sync.sync_id):
                wrong.append(f"a run of {sync.name} is under way")
    wrong += [f"left behind: {p}" for p in (home.folder / "home" / "workers").glob("worker_*")]
    return wrong


def limits(home: Home) -> dict[str, int]:
    """How many loads may go at once at each place."""
    found = {}
    for connection in json.loads(home.applied.read_text())["connections"]:
        duckdb = connection["kind"] == "duckdb"
        place = connection["path"] if duckdb else f"{connection['database']}.{connection['schema']}"
        found[place] = 1 if duckdb else connection["concurrency"]
    return found


def in_small_commits(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Have files land in many small commits, so that runs have many chunks."""
    gathered = files._gathered_tables

    def sliced(tables: Any) -> Any:
        for table in gathered(tables):
            for at in range(0, table.num_rows, rows):
                yield table.slice(at, rows)

    monkeypatch.setattr(files, "_gathered_tables", sliced)


def figures(history: History, found: Sequence[Load], notes: Notes, took: Takeovers) -> list[str]:
    """What happened, in numbers."""
    ended: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    retries = 0
    for changes in history.by("runs", "run_id").values():
        ended[changes[-1].row["state"]] += 1
        kinds[changes[-1].row["kind"]] += 1
        states = ["", *(n.row["state"] for n in changes)]
        retries += sum(b == "retrying" != a for a, b in pairwise(states))
    begun = handed = lost = mistaken = 0
    struck = {blow.process_id: blow.at for blow in reversed(notes.blows)}
    process_of = history.process_of()
    for changes in history.by("lanes", "run_id", "lane").values():
        for was, now in pairwise(changes):
            a, b = was.row, now.row
            begun += b["state"] == LaneState.GOING and a["state"] == LaneState.QUEUED
            if a["state"] == LaneState.GOING and b["state"] == LaneState.QUEUED:
                dead = a["attempt"] == b["attempt"]
                lost += dead
                mistaken += dead and struck.get(process_of.get(a["worker_id"], 0), 1e12) > now.at
                handed += a["attempt"] != b["attempt"]
    outcomes = Counter(load.outcome for load in found)
    worst = {k: max(v, default=0.0) for k, v in (("freed", took.released), ("taken up", took.taken_up))}
    middle = {k: sorted(v)[len(v) // 2] if v else 0.0 for k, v in (("freed", took.released), ("t", took.taken_up))}
    return [
        f"{len(notes.blows)} blows: {notes.kills()}; outages: {Counter(o.what for o in notes.outages)}",
        f"runs {dict(kinds)}, ended {dict(ended)}; attempts begun {begun}, retries {retries}, lanes taken from the "
        f"dead {lost} (of them alive and well {mistaken}), handed over or retried {handed}",
        f"loads {dict(outcomes)}; done meanwhile {dict(notes.done)}",
        f"lanes of {len(took.released)} struck workers were free after {middle['freed']:.1f} s (worst "
        f"{worst['freed']:.1f}), and taken up again after {middle['t']:.1f} s (worst {worst['taken up']:.1f})",
    ]
