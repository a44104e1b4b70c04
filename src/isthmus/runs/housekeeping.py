"""Housekeeping: what every worker does each second beside its runs. Whoever comes first does it; the others pass.

Who is gone, what they left, what is due, what is old. The engine decides nothing here: it is told what the ledger says,
so that a run goes on even if the engine lost it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from isthmus.ledger import connections, dues, lanes, runs, syncs, workers
from isthmus.ledger.database import Ledger
from isthmus.ledger.lanes import Waiting
from isthmus.ledger.presence import Presence
from isthmus.ledger.workers import Worker
from isthmus.model.errors import InvalidInput, SyncBusy
from isthmus.model.work import Attempt, RunKind, Sync
from isthmus.runs import retry, schedule
from isthmus.runs.engine import AttemptState, Engine

SILENT_S = 10.0
"""A worker whose beat has not moved for so long, by the clock of the one who looks, counts as gone."""

HEARD_S = 2.5

CUT_OFF_S = 2.0
"""A worker whose lock is free but who may only have lost his connection counts as gone when he has been silent so long:
one that lives takes its lock again with the next beat."""

JUMP_S = 5.0
"""The wall clock may be off by so much from what has really passed before that is a jump."""

_ALONE = 1

_ORPHANS_EVERY = 30
"""Looks after which the engine is asked what the dead have left there even if the ledger has nothing at work: an
attempt that is over for the ledger may still count against the limit of its connection."""

LimitOf = Callable[[str, int | None], int]
"""How many lanes a connection may have going at once: from its kind and what was set for it."""


@dataclass
class Housekeeping:
    """One worker's view of all others. `tick` is safe at any time, on any number of workers at once."""

    ledger: Ledger
    presence: Presence
    engine: Engine
    worker_id: str
    alone: bool  # no other process takes up runs here: those that did are gone, however they look
    limit_of: LimitOf
    now: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    is_idle: bool = False  # the last look found nothing under way and nothing due
    _beats: dict[str, tuple[int, float]] = field(default_factory=dict)  # the last one, and the silence since
    _looked: float | None = None
    _clocks: tuple[datetime, float] | None = None
    _looks: int = 0

    def tick(self) -> None:
        """Look after everything once."""
        seen = self.monotonic()
        since, self._looked = self._looked, None  # if this look fails it heard nobody, and says nothing of the silence
        with self.ledger.reading() as tx:
            there = workers.every(tx)
            limits = {self.limit_of(kind, given) for kind, given in connections.in_use(tx)}
        silent_s = self._listened(there, seen, since)
        self.engine.hear(limits)
        with self.ledger.alone(_ALONE) as first:
            if first:
                self._look_after(self._gone(there, silent_s))

    def _look_after(self, gone: set[str]) -> None:
        self._take_from(gone)
        now = self.now()
        if self._clock_jumped(now):
            self._realign(now)
        with self.ledger.reading() as tx:  # one for all: where nothing is to be done, this is what a second costs
            queued, going = lanes.waiting(tx), lanes.going(tx)
            due = dues.due(tx, now)
        self._looks += 1
        self.is_idle = not (queued or going or gone or due)
        if queued or going or gone or self._looks % _ORPHANS_EVERY == 1:
            self.engine.resume_orphans(self._live)
        if queued or going:
            self._reconcile(queued, going, now)
        for sync in due:
            self._start(sync, now)

    def enqueue(self, waiting: Waiting, delay_s: float = 0.0) -> None:
        """Tell the engine of a lane that waits."""
        limit = self.limit_of(waiting.kind, waiting.concurrency)
        with self.ledger.transaction() as tx:
            self.engine.enqueue(tx, waiting.attempt, partition=waiting.connection_id, limit=limit, delay_s=delay_s)

    def _live(self) -> set[str]:
        with self.ledger.reading() as tx:
            return {w.worker_id for w in workers.every(tx)}

    def _listened(self, there: list[Worker], seen: float, since: float | None) -> dict[str, float]:
        """For how long each worker has been silent, as heard by one who looks now and looked before, at `since`.

        Between two looks not more than `HEARD_S` counts: whoever was frozen himself has heard nothing.
        """
        passed = min(seen - since, HEARD_S) if since is not None else 0.0
        self._looked = self.monotonic()
        beats, self._beats = self._beats, {}
        for worker in there:
            beat, silent_s = beats.get(worker.worker_id, (-1, 0.0))
            self._beats[worker.worker_id] = (worker.beat, silent_s + passed if beat == worker.beat else 0.0)
        return {worker_id: silent_s for worker_id, (_, silent_s) in self._beats.items()}

    def _gone(self, there: list[Worker], silent_s: dict[str, float]) -> set[str]:
        """Those whose process has ended, and those that have been silent for too long."""
        others = [w for w in there if w.worker_id != self.worker_id]
        free = self.presence.gone([w.worker_id for w in others])
        certain = self.presence.is_certain
        gone = {worker_id for worker_id in free if certain or silent_s[worker_id] >= CUT_OFF_S}
        for worker in others:
            silent = silent_s[worker.worker_id]
            if silent > SILENT_S or (self.alone and worker.takes_runs and silent > 0):
                gone.add(worker.worker_id)
        return gone

    def _take_from(self, gone: set[str]) -> None:
        if not gone:
            return
        with self.ledger.transaction() as tx:
            lanes.lost(tx, gone, deaths=retry.MAX_DEATHS, failures_limit=retry.MAX_FAILURES, at=self.now())
            for worker_id in gone:
                workers.leave(tx, worker_id)

    def _reconcile(self, queued: list[Waiting], going: dict[Attempt, str], now: datetime) -> None:
        """Have the engine know what the ledger says: every lane that waits, and none that ended without a word."""
        live = self._live()
        states = self.engine.states([*(w.attempt for w in queued), *going])
        for waiting in queued:
            state = states.get(waiting.attempt)
            wait_s = (waiting.due_at - now).total_seconds() if waiting.due_at else 0.0
            if wait_s > retry.LONGEST_S + JUMP_S:  # the clock was put back: nobody meant to wait for that long
                self._again(waiting.attempt, None)
            elif state is None:
                self.enqueue(waiting, max(0.0, wait_s))
            elif state is AttemptState.OVER:
                self._again(waiting.attempt, None)
        for attempt, worker_id in going.items():
            if worker_id not in live:  # of a worker that nobody knows any more
                with self.ledger.transaction() as tx:
                    lanes.lost(tx, [worker_id], deaths=retry.MAX_DEATHS, failures_limit=retry.MAX_FAILURES, at=now)
            elif states.get(attempt) is AttemptState.OVER:  # it could not even say that it failed
                self._again(attempt, worker_id)

    def _again(self, attempt: Attempt, worker_id: str | None) -> None:
        with self.ledger.transaction() as tx:
            queued = lanes.again(tx, attempt, worker_id, at=self.now())
        if queued is not None:
            self.engine.cancel([attempt])

    def _start(self, sync: Sync, now: datetime) -> None:
        """One run however many were missed; none if one is under way. A sync is never started twice for one moment."""
        following = _following(sync, now)
        with self.ledger.transaction() as tx:
            connection = connections.by_id(tx, sync.connection_id)
            if connection.is_shut:  # this one tries whether one gets in by now; the others wait for what it finds
                connection = connections.held(tx, sync.connection_id)
                if connection.next_try_at is not None and connection.next_try_at > now:
                    return
            present = syncs.by_id(tx, sync.sync_id, lock=True)
            if (present.next_due, present.schedule, present.state) != (sync.next_due, sync.schedule, sync.state):
                return
            try:
                queued = dues.start(tx, sync.sync_id, at=now)
            except SyncBusy:
                active = runs.active(tx, sync.sync_id)
                if active is None or active.kind is not RunKind.VERIFICATION:  # that one delivers nothing: wait for it
                    dues.set_due(tx, sync.sync_id, following)
                return
            dues.set_due(tx, sync.sync_id, following)
            if connection.is_shut:
                next_try_s = retry.door_delay_s(connection.tries + 1, random.random())
                connections.set_next_try(tx, connection.connection_id, now + timedelta(seconds=next_try_s))
            for waiting in lanes.waiting(tx, [attempt.run_id for attempt in queued]):
                limit = self.limit_of(waiting.kind, waiting.concurrency)
                self.engine.enqueue(tx, waiting.attempt, partition=waiting.connection_id, limit=limit)

    def _clock_jumped(self, now: datetime) -> bool:
        seen = self.monotonic()
        was, self._clocks = self._clocks, (now, seen)
        if was is None:
            return True  # what others did before us, with what clock, nobody knows
        passed = (now - was[0]).total_seconds() - (seen - was[1])
        return abs(passed) > JUMP_S

    def _realign(self, now: datetime) -> None:
        """No sync may be due later than its schedule says from now on: it would seem to sleep."""
        with self.ledger.transaction() as tx:
            for sync in syncs.every(tx):
                following = _following(sync, now)
                if sync.next_due is not None and following is not None and sync.next_due > following:
                    dues.set_due(tx, sync.sync_id, following)


def _following(sync: Sync, now: datetime) -> datetime | None:
    try:
        return schedule.read(sync.schedule).following(now, sync.sync_id)
    except InvalidInput:
        return now + timedelta(days=1)  # written by another version: look again tomorrow, do not stop for all others
