"""A worker at work on a home, and a person's commands beside it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from runs_cast import wait_for
from sqlalchemy import update

from exports.exports_cast import Office
from isthmus.actions import connecting, syncing, working
from isthmus.app import App
from isthmus.exports import plan
from isthmus.ledger import lanes, workers
from isthmus.ledger.schema import runs as runs_table
from isthmus.model.errors import InvalidInput, IsthmusError, RunStopped, StoreBusy, SyncBusy
from isthmus.model.table import Batch
from isthmus.model.work import Run, RunKind, RunState, SyncState
from isthmus.runs import worker as workshop
from isthmus.runs.worker import Worker
from isthmus.settings import Settings
from isthmus.warehouses import duckdb as connector
from isthmus.warehouses.protocol import Receipt

COMMITS = 6


@dataclass
class Loads:
    """What was loaded in this process, and a gate before it."""

    batches: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Event = field(default_factory=threading.Event)
    before: Callable[[Batch], None] = lambda batch: None

    def shut(self) -> None:
        self.at_gate.clear()
        self.gate.clear()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    kept = Loads()
    kept.gate.set()
    (warehouse,) = {v for v in vars(connector).values() if isinstance(v, type) and "load" in vars(v)}
    load = warehouse.load

    def gated(self: object, batch: Batch) -> Receipt:
        kept.at_gate.set()
        assert kept.gate.wait(60)
        kept.before(batch)
        receipt: Receipt = load(self, batch)
        kept.batches.append(batch.batch_id)
        return receipt

    monkeypatch.setattr(warehouse, "load", gated)
    for planned in (plan.history, plan.changes):
        monkeypatch.setitem(planned.__kwdefaults__, "limit", 1)  # a chunk for each commit
    yield kept
    kept.gate.set()


class Plant:
    """An office with a worker, in this process, that serves it."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.app = App(Settings.load({}, office.home))
        self.worker: Worker | None = None
        self.thread: threading.Thread | None = None

    def serve(self) -> None:
        self.worker = working.worker(self.app, "serve")
        self.thread = threading.Thread(target=self.worker.run, name="worker")
        self.thread.start()
        wait_for(self.worker.is_ready.is_set)

    def stop(self) -> None:
        if self.worker is not None and self.thread is not None:
            self.worker.stop()
            self.thread.join(90)
            assert not self.thread.is_alive()
            self.worker = self.thread = None

    def close(self) -> None:
        self.stop()
        self.app.close()

    def runs(self) -> list[Run]:
        return syncing.list_runs(self.office.app, sync=None, limit=50)

    def newest(self) -> Run:
        return self.runs()[0]

    def going(self) -> bool:
        """Whether somebody is at a lane."""
        with self.office.app.ledger.reading() as tx:
            return bool(lanes.going(tx))

    def state(self) -> RunState | None:
        found = self.runs()
        return found[0].state if found else None


@pytest.fixture
def plant(tmp_path: Path, loads: Loads) -> Iterator[Plant]:
    office = Office(tmp_path)
    for n in range(COMMITS):
        office.events({"ext": f"person {n}", "id": f"e{n}"})
    opened = Plant(office)
    yield opened
    loads.gate.set()
    opened.close()
    office.close()


def test_a_worker_carries_out_what_is_scheduled_and_whoever_asks_may_wait_for_it(plant: Plant, loads: Loads) -> None:
    plant.office.apply(schedule="hourly")
    plant.serve()
    wait_for(lambda: plant.state() is RunState.COMPLETED)
    assert plant.office.ids() == {f"e{n}" for n in range(COMMITS)}
    first = plant.newest()

    # another one is refused, and told what to do
    second = App(Settings.load({}, plant.office.home))
    with pytest.raises(StoreBusy, match="another `isthmus serve` works on this home") as refused:
        working.worker(second, "serve").run()
    assert "ISTHMUS_DATABASE_URL" in refused.value.hint
    with pytest.raises(InvalidInput, match="cannot be shared"):
        working.worker(second, "worker")
    second.close()

    # nothing is new
    assert syncing.run_sync(plant.office.app, "everything") is None

    # without waiting
    plant.office.events({"ext": "person 0", "id": "new"})
    loads.shut()
    began = time.monotonic()
    handed = syncing.run_sync(plant.office.app, "everything", wait=False)
    assert time.monotonic() - began < 5
    assert handed is not None and handed.active and handed.run_id != first.run_id
    assert syncing.run_sync(plant.office.app, "everything", wait=False).run_id == handed.run_id  # type: ignore[union-attr]

    # a verification is refused while a run is going
    wait_for(loads.at_gate.is_set)
    with pytest.raises(SyncBusy, match="a run of 'everything' is under way"):
        plant.office.verify()
    loads.gate.set()
    wait_for(lambda: plant.state() is RunState.COMPLETED)

    # waiting
    plant.office.events({"ext": "person 0", "id": "newer"})
    done = syncing.run_sync(plant.office.app, "everything", wait=True)
    assert done is not None and done.state is RunState.COMPLETED and "newer" in plant.office.ids()

    # a verification is a run, too, and the only one while it goes
    assert plant.office.verify().equal
    assert (plant.newest().kind, plant.newest().state) == (RunKind.VERIFICATION, RunState.COMPLETED)
    plant.stop()
    with plant.office.app.ledger.reading() as tx:
        assert not workers.every(tx) and not lanes.going(tx)


def test_pause_resume_cancel_and_stop_take_effect_at_the_next_chunk_and_nothing_is_loaded_twice(
    plant: Plant, loads: Loads
) -> None:
    plant.office.apply(schedule="hourly")
    loads.shut()
    plant.serve()
    wait_for(loads.at_gate.is_set)
    run_id = plant.newest().run_id

    # pause: the chunk that is at the gate is finished, no other one begins
    assert syncing.pause_sync(plant.office.app, "everything").state is SyncState.PAUSED
    loads.gate.set()
    opened_at = time.monotonic()
    wait_for(lambda: len(loads.batches) == 1 and not plant.going())
    assert time.monotonic() - opened_at < 5
    time.sleep(1.5)
    assert len(loads.batches) == 1 and plant.state() is RunState.PAUSED
    with pytest.raises(InvalidInput, match="is paused"):
        syncing.run_sync(plant.office.app, "everything")

    # resume: behind it
    loads.shut()
    syncing.resume_sync(plant.office.app, "everything")
    wait_for(loads.at_gate.is_set)

    # stop: handed over within a chunk, and the next worker goes on
    stopping = threading.Thread(target=plant.stop)
    assert plant.worker is not None
    plant.worker.stop()
    stopping.start()
    loads.gate.set()
    stopping.join(30)
    assert len(loads.batches) == 2 and plant.state() is RunState.SCHEDULED
    plant.serve()
    wait_for(lambda: plant.state() is RunState.COMPLETED)
    assert plant.newest().run_id == run_id
    assert len(loads.batches) == len(set(loads.batches)) == len(syncing.show_run(plant.office.app, run_id).chunks)
    plant.office.assert_same()

    # cancel
    plant.office.events({"ext": "person 0", "id": "new"})
    plant.office.events({"ext": "person 1", "id": "newer"})
    loads.shut()
    before = len(loads.batches)
    going = syncing.run_sync(plant.office.app, "everything", wait=False)
    assert going is not None
    wait_for(loads.at_gate.is_set)
    assert syncing.cancel_run(plant.office.app, going.run_id).state is RunState.CANCELLED
    told: list[BaseException] = []
    loads.gate.set()
    wait_for(lambda: not plant.going())
    assert len(loads.batches) == before + 1

    # whoever waits for a run is told what stopped it
    loads.shut()

    def wait() -> None:
        with suppress(IsthmusError):
            try:
                syncing.run_sync(App(Settings.load({}, plant.office.home)), "everything", wait=True)
            except IsthmusError as e:
                told.append(e)
                raise

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(loads.at_gate.is_set)

    # the connection is removed under it: its syncs are disabled, what was is kept
    connecting.remove_connection(plant.office.app, "dwh")
    loads.gate.set()
    waiting.join(30)
    assert len(told) == 1 and isinstance(told[0], RunStopped) and "is cancelled" in str(told[0])
    wait_for(lambda: not plant.going())
    sync, runs = syncing.show_sync(plant.office.app, "everything")
    assert sync.state is SyncState.DISABLED and len(runs) >= 3
    assert [r.state for r in runs if r.run_id == run_id] == [RunState.COMPLETED]
    with pytest.raises(InvalidInput, match="is disabled"):
        syncing.run_sync(plant.office.app, "everything")


@pytest.mark.long
def test_a_run_whose_moment_was_fixed_before_somebody_asked_is_followed_by_another_whatever_the_clocks_say(
    plant: Plant, loads: Loads
) -> None:
    plant.office.apply(schedule="manual")
    loads.shut()
    plant.serve()
    older = syncing.run_sync(plant.office.app, "everything", wait=False)
    wait_for(loads.at_gate.is_set)
    assert older is not None
    with plant.office.app.ledger.transaction() as tx:  # the worker's clock is ahead
        moment = plant.office.app.now() + timedelta(hours=1)
        tx.execute(update(runs_table).where(runs_table.c.run_id == older.run_id).values(planned_at=moment))
    plant.office.events({"ext": "person 0", "id": "newer"})
    threading.Timer(1, loads.gate.set).start()  # once the command waits
    done = syncing.run_sync(plant.office.app, "everything", wait=True)
    assert done is not None and done.run_id != older.run_id and "newer" in plant.office.ids()


def test_credentials_that_cannot_be_unsealed_fail_the_run_and_say_so(plant: Plant, tmp_path: Path) -> None:
    """It must not wait for ever for an attempt that nobody can begin."""
    plant.office.apply(schedule="manual")
    plant.app.config = _no_key  # type: ignore[method-assign, assignment]
    plant.serve()
    with pytest.raises(IsthmusError, match="cannot be unsealed") as told:
        syncing.run_sync(plant.office.app, "everything", wait=True)
    assert told.value.hint == "set ISTHMUS_SECRET_KEY"
    assert plant.state() is RunState.FAILED


def _no_key(connection: object) -> object:
    raise InvalidInput("the password cannot be unsealed", hint="set ISTHMUS_SECRET_KEY")


@pytest.mark.long
def test_a_worker_that_was_given_up_by_the_others_begins_again_as_a_new_one(plant: Plant, loads: Loads) -> None:
    plant.office.apply(schedule="hourly")
    loads.shut()
    plant.serve()
    assert plant.worker is not None
    wait_for(loads.at_gate.is_set)
    was = plant.worker.worker_id
    with plant.office.app.ledger.transaction() as tx:
        lanes.lost(tx, [was], deaths=9, failures_limit=9, at=plant.office.app.now())
        workers.leave(tx, was)
    wait_for(lambda: plant.worker is not None and plant.worker.worker_id != was, patience_s=40)
    loads.gate.set()
    wait_for(lambda: plant.state() is RunState.COMPLETED, patience_s=40)
    assert plant.office.ids() == {f"e{n}" for n in range(COMMITS)}
    plant.office.assert_same()


def test_a_beat_goes_on_whatever_goes_wrong_with_one_of_them(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops to beat is given up by the others and never learns it."""
    monkeypatch.setattr(workshop, "BEAT_S", 0)
    worker = working.worker(plant.app, "serve")
    asked: list[str] = []

    class Presence:
        def keep(self) -> None:
            asked.append("keep")
            if len(asked) == 1:
                raise ValueError("nobody foresaw this")

    session = workshop._Session(
        plant.app.ledger,
        None,
        Presence(),
        worker._role,
        plant.app.now,
        threading.Event(),
        worker,  # type: ignore[arg-type]
    )
    session._beat()  # comes back because it is in no list of workers
    assert session._given_up.is_set() and len(asked) == 2


def test_without_a_worker_a_command_does_it_itself_and_the_next_takes_up_what_a_killed_one_left(
    plant: Plant, loads: Loads
) -> None:
    """Neither loads the run engine."""
    plant.office.apply(schedule="hourly")
    plant.office.close()  # so that nothing is open twice
    script = (
        "import os, sys\n"
        "kill_at = int(sys.argv[1])\n"
        "from isthmus.exports import plan\n"
        "for f in (plan.history, plan.changes): f.__kwdefaults__['limit'] = 1\n"
        "from isthmus.warehouses import duckdb as c\n"
        "(w,) = {v for v in vars(c).values() if isinstance(v, type) and 'load' in vars(v)}\n"
        "load, count = w.load, []\n"
        "def counted(self, batch):\n"
        "    receipt = load(self, batch)\n"
        "    count.append(batch.batch_id)\n"
        "    if len(count) == kill_at: os.kill(os.getpid(), 9)\n"
        "    return receipt\n"
        "w.load = counted\n"
        "from isthmus.cli.main import main\n"
        "sys.argv = ['isthmus', *sys.argv[2:]]\n"
        "try: main()\n"
        "finally: print('loads', len(count), 'dbos' in sys.modules, file=sys.stderr)\n"
    )

    def command(kill_at: int, *words: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", script, str(kill_at), *words, "--home", str(plant.office.home)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)

    killed = command(3, "sync", "run", "everything")
    assert killed.returncode == -signal.SIGKILL
    assert plant.state() is RunState.RUNNING, "nobody has noticed yet"
    done = command(0, "sync", "run", "everything", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["changed"] is True and answer["handed_over"] is False and answer["run"]["state"] == "completed"
    chunks = len(answer["run"]["chunks"])
    assert done.stderr.split()[-3:] == ["loads", str(chunks - 2), "False"], "only what was not known to be done"
    assert plant.office.ids() == {f"e{n}" for n in range(COMMITS)}
    again = command(0, "sync", "run", "everything", "--wait")
    assert again.returncode == 0 and "is up to date" in again.stdout
    assert "in hand" not in again.stdout

    # a killed verification blocks nobody
    verifying = syncing.prove.begin(
        syncing.delivery_of(plant.office.app, plant.office.app.sync("everything")),
        plant.office.app.sync("everything"),
        "worker_dead",
    )
    assert plant.newest().state is RunState.RUNNING and plant.newest().kind is RunKind.VERIFICATION
    assert plant.office.verify().equal
    assert syncing.show_run(plant.office.app, verifying.run_id).state is RunState.CANCELLED

    # beside a worker the command says that it handed the run over
    plant.office.events({"ext": "person 0", "id": "new"})
    loads.shut()
    plant.serve()
    handed = command(0, "sync", "run", "everything")
    assert handed.returncode == 0, handed.stderr
    assert "the workers have the run in hand" in handed.stdout and "isthmus run show run_" in handed.stdout
    assert "delivered" not in handed.stdout
    answer = json.loads(command(0, "sync", "run", "everything", "--no-wait", "--json").stdout)
    assert answer["changed"] is None and answer["handed_over"] is True
    assert answer["run"]["state"] in ("scheduled", "running")
    loads.gate.set()
    waited = command(0, "sync", "run", "everything", "--wait")
    assert waited.returncode == 0, waited.stderr
    assert "new" in plant.office.ids()
    assert plant.newest().state is RunState.COMPLETED
