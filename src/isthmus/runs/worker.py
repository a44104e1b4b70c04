"""A worker: a process that takes up runs until it is asked to end. `isthmus serve` has one, `isthmus worker` is one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from isthmus.ledger import doors, lanes, retention, workers
from isthmus.ledger.database import Ledger, Tx
from isthmus.ledger.presence import Presence, new_worker_id, place
from isthmus.logs import bound, log
from isthmus.model.errors import IsthmusError, StoreBusy
from isthmus.model.work import Attempt
from isthmus.runs.attempt import Ended, Hands
from isthmus.runs.engine import Engine
from isthmus.runs.housekeeping import Housekeeping, LimitOf
from isthmus.runs.room import Room

BEAT_S = 1.0
IDLE_S = 2.0
"""Between two looks while nothing is under way: half the cost, and what is due then begins a second later at worst."""

LONGEST_WAIT_S = 2.0
"""How long a lane waits for room here while another worker has less to do."""

_AGAIN_S = 2.0
PATIENCE_S = 60
"""How long a worker that is to end waits for the chunks it is at. What takes longer is done again elsewhere."""

ENGINE_KEEPS = timedelta(hours=6)
"""How long the engine remembers what is over: only for whoever looks into its tables."""

_log = log("worker")


@dataclass(frozen=True)
class Role:
    """What a worker is given: `carry` carries out an attempt; `alone` is for the one process of a home."""

    name: str
    alone: bool
    slots: int
    carry: Callable[[Attempt, Hands], Ended]
    limit_of: LimitOf
    keep: timedelta  # runs that are older are forgotten


class Worker:
    """`run` works until `stop` is set. Everything it starts ends with it."""

    def __init__(
        self, ledger: Ledger, where: Any, presence: Callable[[], Presence], role: Role, now: Callable[[], datetime]
    ) -> None:
        self._ledger, self._where, self._new_presence, self._role, self._now = ledger, where, presence, role, now
        self._stop = threading.Event()
        self.is_ready = threading.Event()
        self.worker_id = ""

    def stop(self) -> None:
        """Ask the worker to end: at the next chunk boundaries it hands its runs over. May be called from a signal."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`. A worker that the others gave up, because it was frozen or cut off for a while, begins
        again as a new one. Raises StoreBusy if the home has a worker already."""
        while not self._stop.is_set():
            session = _Session(self._ledger, self._where, self._new_presence(), self._role, self._now, self._stop, self)
            try:
                session.run()
            except Exception as e:
                if not self.is_ready.is_set():
                    raise  # whoever started it is still looking
                summary = e.summary if isinstance(e, IsthmusError) else type(e).__name__
                _log.warning("worker broke off and begins again", problem=summary)
                self._stop.wait(_AGAIN_S)


class _Session:
    """The life of a worker under one id."""

    def __init__(
        self,
        ledger: Ledger,
        where: Any,
        presence: Presence,
        role: Role,
        now: Callable[[], datetime],
        stop: threading.Event,
        worker: Worker,
    ) -> None:
        self._ledger, self._where, self._presence, self._role, self._now = ledger, where, presence, role, now
        self._stop, self._worker = stop, worker
        self._given_up = threading.Event()  # by the others
        self._over = threading.Event()
        self._worker_id = new_worker_id()
        self._room = Room(role.slots)
        self._compared = (0.0, False)  # when, and whether another worker had less to do

    def run(self) -> None:
        self._presence.hold(self._worker_id, alone=self._role.alone)
        try:
            with self._ledger.transaction() as tx:
                workers.join(tx, self._worker_id, role=self._role.name, place=place(), at=self._now())
            beating = threading.Thread(target=self._beat, name="beat", daemon=True)
            beating.start()
            try:
                self._work()
            finally:
                self._over.set()
                beating.join(5)
                self._leave()
        finally:
            self._presence.close()

    def _work(self) -> None:
        engine = Engine(self._where, self._worker_id, self._carry, slots=self._role.slots)
        self._engine = engine
        try:
            self._housekeeping = Housekeeping(
                self._ledger,
                self._presence,
                engine,
                self._worker_id,
                self._role.alone,
                self._role.limit_of,
                self._now,
            )
            _log.info("worker is ready", worker_id=self._worker_id, role=self._role.name)
            self._worker.worker_id = self._worker_id
            self._worker.is_ready.set()
            next_gc = time.monotonic() + 30
            while not self._ends():
                self._try("look after runs", self._housekeeping.tick)
                if time.monotonic() > next_gc:
                    next_gc = time.monotonic() + 3600
                    self._try("forget what is old", self._gc)
                self._wait(IDLE_S if self._housekeeping.is_idle else BEAT_S)
        finally:
            patience = 0 if self._given_up.is_set() else PATIENCE_S
            if patience:
                _log.info("worker hands its runs over", worker_id=self._worker_id)
            engine.close(patience_s=patience)

    def _ends(self) -> bool:
        return self._stop.is_set() or self._given_up.is_set()

    def _wait(self, seconds: float) -> None:
        if not self._given_up.is_set():
            self._stop.wait(seconds)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                self._presence.keep()
                with self._ledger.transaction() as tx:
                    if not workers.beat(tx, self._worker_id, at=self._now()):
                        _log.warning("worker was given up by the others and begins again", worker_id=self._worker_id)
                        self._given_up.set()
                        return
            except Exception as e:  # whatever it was: a worker without a beat never learns that it was given up
                summary = e.summary if isinstance(e, IsthmusError) else type(e).__name__
                _log.warning("the ledger cannot be told that this worker lives", problem=summary)

    def _carry(self, attempt: Attempt) -> None:
        """Called by the engine, on a thread of its own. What is raised here is found by the housekeeping."""
        with bound(run_id=attempt.run_id, attempt=str(attempt), worker_id=self._worker_id):
            try:
                with self._ledger.reading() as tx:
                    connection_id = doors.of_run(tx, attempt.run_id).connection_id
                turn = self._room.enter(connection_id, gives_up=self._leaves_it)
                if turn is None:
                    self._put_back(attempt)
                    return
                hands = Hands(
                    worker_id=self._worker_id,
                    now=self._now,
                    enqueue=self._enqueue,
                    stopping=self._ends,
                    report=lambda run, done: turn.moved(),
                    is_wanted_elsewhere=lambda: turn.is_wanted,
                )
                try:
                    self._role.carry(attempt, hands)
                finally:
                    turn.leave()
            except IsthmusError as e:
                _log.error("attempt broke off and will be taken up again", problem=e.summary)
                raise

    def _leaves_it(self, waited_s: float) -> bool:
        """Whether a lane that waits for room here is better put back: this worker ends, or another has less to do."""
        if self._ends():
            return True
        if waited_s < LONGEST_WAIT_S or self._role.alone:
            return False
        seen = time.monotonic()
        if seen - self._compared[0] > LONGEST_WAIT_S:  # one look for all that wait
            with self._ledger.reading() as tx:
                self._compared = seen, lanes.has_less_to_do(tx, self._worker_id)
        return self._compared[1]

    def _put_back(self, attempt: Attempt) -> None:
        with self._ledger.transaction() as tx:
            queued = lanes.put_back(tx, attempt, at=self._now())
            if queued is not None:
                self._enqueue(tx, queued, 0)

    def _enqueue(self, tx: Tx, attempt: Attempt, delay_s: float) -> None:
        for waiting in lanes.waiting(tx, [attempt.run_id]):
            if waiting.attempt == attempt:
                limit = self._role.limit_of(waiting.kind, waiting.concurrency)
                self._engine.enqueue(tx, attempt, partition=waiting.connection_id, limit=limit, delay_s=delay_s)

    def _gc(self) -> None:
        with self._ledger.alone(2) as first:
            if first:
                forgotten = retention.gc(self._ledger, now=self._now(), keep=self._role.keep)
                attempts = self._engine.gc(self._now() - ENGINE_KEEPS)
                if forgotten or attempts:
                    _log.info("forgot what is old", runs=forgotten, attempts=attempts)

    def _try(self, what: str, do: Callable[[], Any]) -> None:
        """A worker outlives its database: what cannot be done now is done a second later."""
        try:
            do()
        except StoreBusy as e:
            _log.debug(f"could not {what} now", problem=e.summary)
        except Exception as e:
            summary, vendor = (e.summary, e.vendor) if isinstance(e, IsthmusError) else (type(e).__name__, "")
            _log.warning(f"could not {what}; trying again", problem=summary, vendor=vendor)

    def _leave(self) -> None:
        def leave() -> None:
            with self._ledger.transaction() as tx:
                workers.leave(tx, self._worker_id)

        self._try("say goodbye", leave)
