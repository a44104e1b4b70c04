"""An attempt: how any run is carried out, whatever it does. Plan it, then chunk by chunk what is not done.

Nothing is kept between two chunks but in the ledger, so recovery is the ordinary path: an attempt that finds chunks
done goes on behind them. What a chunk does must be idempotent under its batch id, for two workers may do the same one:
a frozen one does not know that it was given up.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from isthmus.ledger import connections, doors, dues, errors, lanes, runs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Ledger, Tx
from isthmus.model.errors import (
    Busy,
    Denied,
    InvalidInput,
    IsthmusError,
    Missing,
    RunStopped,
    StoreFull,
    StoreMissing,
    SyncBusy,
    Unreachable,
    WarehouseError,
)
from isthmus.model.work import GOING, Attempt, Blame, Chunk, ConnectionState, Finding, Run, RunError, RunState
from isthmus.runs import retry

Report = Callable[[Run, int], None]
"""Told when a run begins and after each chunk: the run, and how many of its rows are done."""


@dataclass(frozen=True)
class Done:
    """What one chunk came to."""

    rows: int
    size_bytes: int


Keep = Callable[[Tx, Run, int, int], Run]
"""Keeps a plan in the caller's transaction: the run with window and chunks, its sync's generation, how many lanes."""

Still = Callable[[], None]
"""Raises RunStopped when the lane is somebody else's by now: asked before anything is written outside."""


class Work(Protocol):
    """What runs of one direction do. `leaves_easily`: between two chunks it can be left, and another attempt goes on
    behind them at little cost."""

    @property
    def leaves_easily(self) -> bool: ...

    def plan(self, run: Run, keep: Keep) -> Run:
        """Find out what the run has to do and `keep` it, in one transaction with whatever else that fixes."""
        ...

    def can_go_on(self, run: Run) -> bool:
        """Whether the chunks of a planned run can still be done: what they are made from is kept."""
        ...

    def outcome(self, run: Run) -> dict[str, Any]:
        """What to keep of a run whose chunks are all done. Raises InvalidInput if that is no success."""
        ...

    def open(self, run: Run) -> AbstractContextManager[Callable[[Chunk, Still], Done]]:
        """What does one chunk after the other."""
        ...

    def knock(self) -> IsthmusError | None:
        """Sign in to the warehouse and leave again: what kept us out, or None."""
        ...


@dataclass(frozen=True)
class Hands:
    """Who carries out: a worker, or a command. `enqueue` tells the engine of an attempt, in the given transaction;
    `stopping` says that the process is to end and its lanes to be handed over. `alone`: for this run there is nobody
    else, so that more lanes than one would be in vain. `is_wanted_elsewhere` says that a run of another
    connection waits for its place at this worker."""

    worker_id: str
    now: Callable[[], datetime]
    enqueue: Callable[[Tx, Attempt, float], None] = lambda tx, attempt, delay_s: None
    stopping: Callable[[], bool] = lambda: False
    report: Report = lambda run, done: None
    alone: bool = False
    is_wanted_elsewhere: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Ended:
    """How an attempt came back: the run as it is then (None: there was nothing to do), and what stopped it."""

    run: Run | None
    error: IsthmusError | None = None
    stale: bool = False  # the run was cancelled because its chunks cannot be made again: a new one will do


def carry_out(
    ledger: Ledger, make: Callable[[], Work], attempt: Attempt, hands: Hands, *, begun: Run | None = None
) -> Ended:
    """Carry out one attempt at one lane. What goes wrong is kept in the run's error log and becomes its state.

    `make` gives the work, with the connection's fields and secrets as they are now; it is asked again when they have
    changed, so that a run goes on with the new ones. `begun` is the run if its lane is going at these hands already.
    Raises only what keeps the ledger from being told.
    """
    run = begun or _begin(ledger, attempt, hands)
    if run is None:
        return Ended(None)
    while True:
        tried = _Tried(ledger, make, attempt, hands)
        try:
            ended = tried.go(run)
        except RunStopped as e:
            with ledger.transaction() as tx:
                lanes.let_go(tx, attempt, hands.worker_id, at=hands.now())
                return Ended(runs.get(tx, attempt.run_id), e)
        except Exception as caught:
            ours = _ours(caught)
            if not tried.is_outdated_by(ours):
                return _fail(ledger, attempt, hands, ours, tried)
            ended = None
        if ended is not None:
            return ended
        # The way in is another one by now: once more, behind what is done.
        with ledger.transaction() as tx:
            run = runs.get(tx, attempt.run_id)
            if run.state is not RunState.RUNNING:
                lanes.let_go(tx, attempt, hands.worker_id, at=hands.now())
                return Ended(run, _stopped(run, run.state))


class _Tried:
    """One try with one version of the connection: what it is at, for the error log."""

    def __init__(self, ledger: Ledger, make: Callable[[], Work], attempt: Attempt, hands: Hands) -> None:
        self._ledger, self._make, self._attempt, self._hands = ledger, make, attempt, hands
        self.at = "opening"
        self.work: Work | None = None
        self.began_at = hands.now()
        self.version = self._door().version  # before the work is made: what is newer is seen as new

    def go(self, run: Run) -> Ended | None:
        """How it ended; None if the connection was changed meanwhile, and is to be opened anew."""
        ledger, attempt, hands = self._ledger, self._attempt, self._hands
        work = self.work = self._make()
        self.at = "planning"
        if not run.planned:
            run = work.plan(run, _keeper(attempt, hands))
        elif any(not c.done for c in run.chunks) and not work.can_go_on(run):
            return _give_up(ledger, run, attempt, hands)
        done = sum(c.rows for c in run.chunks if c.done)
        hands.report(run, done)
        todo = [c for c in run.chunks if not c.done and c.lane == attempt.lane]
        if todo and hands.stopping():
            return _hand_over(ledger, attempt, hands)
        if todo:
            self.at = "opening"
            with work.open(run) as do:
                for chunk in todo:
                    self.at = f"{chunk.table} {chunk.part} ({chunk.seqs_after}, {chunk.seqs_upto}]"
                    state, door = self._do(run, chunk, do)
                    done += state.rows
                    hands.report(run, done)
                    if door.is_shut:
                        self._entered(run, whole=False)
                    if state.state is not RunState.RUNNING:
                        raise _stopped(run, state.state)
                    if chunk is todo[-1]:
                        break
                    if hands.stopping() or (work.leaves_easily and hands.is_wanted_elsewhere()):
                        return _hand_over(ledger, attempt, hands)
                    if door.version != self.version:
                        return None
        self.at = "closing"
        counts = work.outcome(run)
        with ledger.transaction() as tx:
            if counts:
                runs.set_counts(tx, run.run_id, counts)
            present = lanes.settle(tx, attempt, hands.worker_id, at=hands.now()) or runs.get(tx, run.run_id)
        if present.state not in (RunState.COMPLETED, *GOING):
            raise _stopped(run, present.state)
        if present.state is RunState.COMPLETED and self._door().state is ConnectionState.UNABLE:
            self._entered(present, whole=True)
        return Ended(present)

    def _do(self, run: Run, chunk: Chunk, do: Callable[[Chunk, Still], Done]) -> tuple[_Done, StoredConnection]:
        ledger, attempt, hands = self._ledger, self._attempt, self._hands
        begun_at = hands.now()
        result = do(chunk, lambda: _require_held(ledger, attempt, hands))
        with ledger.transaction() as tx:
            runs.finish_chunk(
                tx,
                run.run_id,
                chunk.number,
                rows=result.rows,
                size_bytes=result.size_bytes,
                begun_at=begun_at,
                at=hands.now(),
            )
            state = lanes.goes_on(tx, attempt, hands.worker_id)
            return _Done(result.rows, state), doors.of_run(tx, run.run_id)

    def _entered(self, run: Run, *, whole: bool) -> None:
        """In a transaction of its own: a connection is held before its syncs and runs."""
        with self._ledger.transaction() as tx:
            doors.worked(tx, run, whole=whole, at=self._hands.now())

    def _door(self) -> StoredConnection:
        with self._ledger.reading() as tx:
            return doors.of_run(tx, self._attempt.run_id)

    def is_outdated_by(self, e: IsthmusError) -> bool:
        """Whether what went wrong went wrong with a version of the connection that is not the present one. Then it is
        no failure, but it stands in the log."""
        if not isinstance(e, WarehouseError | InvalidInput) or self._door().version == self.version:
            return False
        hint = "the connection was changed meanwhile: the run went on with what it is now"
        number, now = self._attempt.number, self._hands.now()
        with self._ledger.transaction() as tx:
            errors.keep(
                tx, self._attempt.run_id, RunError(e.summary, e.code, e.vendor, hint, True, now, self.at, number)
            )
        return True

    def blame(self, e: IsthmusError, *, is_last: bool, is_shut: bool) -> tuple[Blame, IsthmusError]:
        """Whether the connection is why the run fails, and the error that says so. Where that is not clear, and this
        was the last try, it is found out by knocking."""
        if self.work is None or isinstance(e, Unreachable) or (is_shut and isinstance(e, Denied)):
            return "door", e
        if is_last and isinstance(e, Denied | Missing | Busy):
            said = self.work.knock()
            # No answer to the knock just now says nothing about a right that was refused a moment ago.
            if said is not None and (e.retryable or not said.retryable):
                return "door", said
        return ("grant" if isinstance(e, Denied) else ""), e


@dataclass(frozen=True)
class _Done:
    rows: int
    state: RunState | None


def _begin(ledger: Ledger, attempt: Attempt, hands: Hands) -> Run | None:
    with ledger.transaction() as tx:
        passed = None if hands.alone else lanes.pass_on(tx, attempt, hands.worker_id, at=hands.now())
        if passed is not None:
            hands.enqueue(tx, passed, 0)
            return None
        run = lanes.begin(tx, attempt, hands.worker_id, at=hands.now())
        if run is not None and run.planned:
            for other in lanes.wake(tx, attempt, at=hands.now()):
                hands.enqueue(tx, other, 0)
        return run


def _keeper(attempt: Attempt, hands: Hands) -> Keep:
    def keep(tx: Tx, planned: Run, generation: int, count: int) -> Run:
        if not lanes.is_held(tx, attempt, hands.worker_id):
            raise RunStopped(f"the run {attempt.run_id} is in other hands by now")
        run = runs.plan(tx, planned, generation=generation)
        if count > 1 and not hands.alone:
            for other in lanes.widen(tx, run.run_id, count, at=hands.now()):
                hands.enqueue(tx, other, 0)
            run = runs.get(tx, run.run_id)
        return run

    return keep


def _require_held(ledger: Ledger, attempt: Attempt, hands: Hands) -> None:
    with ledger.reading() as tx:
        if not lanes.is_held(tx, attempt, hands.worker_id):
            raise RunStopped(f"the run {attempt.run_id} is in other hands by now")


def _hand_over(ledger: Ledger, attempt: Attempt, hands: Hands) -> Ended:
    with ledger.transaction() as tx:
        queued = lanes.hand_over(tx, attempt, hands.worker_id, at=hands.now())
        if queued is not None:
            hands.enqueue(tx, queued, 0)
        run = runs.get(tx, attempt.run_id)
    return Ended(run, RunStopped("the run was left between two chunks: this process ends, or others wait; it goes on"))


def _give_up(ledger: Ledger, run: Run, attempt: Attempt, hands: Hands) -> Ended:
    """The store's moment of the run is gone. What it delivered stays; the next run begins at the watermark."""
    with ledger.transaction() as tx:
        state = lanes.goes_on(tx, attempt, hands.worker_id)
        if state is not RunState.RUNNING:
            return Ended(runs.get(tx, run.run_id), _stopped(run, state))
        cancelled = runs.set_state(tx, run.run_id, RunState.CANCELLED, at=hands.now())
        lanes.goes_on(tx, attempt, hands.worker_id)
        with suppress(SyncBusy, InvalidInput):  # a person has paused it, or was faster
            for queued in dues.start(tx, run.sync_id, at=hands.now()):
                hands.enqueue(tx, queued, 0)
    return Ended(cancelled, stale=True)


def _fail(ledger: Ledger, attempt: Attempt, hands: Hands, e: IsthmusError, tried: _Tried) -> Ended:
    with ledger.reading() as tx:
        tries = runs.get(tx, attempt.run_id).tries + 1
        shut = doors.of_run(tx, attempt.run_id).is_shut
    # Where nobody gets in, one try from time to time is enough: see `retry.door_delay_s`.
    is_last = not e.retryable or tries >= retry.MAX_TRIES or (shut and isinstance(e, Unreachable))
    blame, said = tried.blame(e, is_last=is_last, is_shut=shut)
    now = hands.now()
    error = RunError(e.summary, e.code, e.vendor, e.hint, e.retryable, now, tried.at, attempt.number, blame)
    delay_s = retry.delay_s(tries, random.random())
    again = None if is_last else now + timedelta(seconds=delay_s)
    limit = None if blame == "door" else retry.MAX_FAILURES
    with ledger.transaction() as tx:
        door = connections.held(tx, doors.of_run(tx, attempt.run_id).connection_id) if is_last and blame else None
        if door is not None and door.version != tried.version:  # the next one has a chance
            door, again, delay_s = None, now, 0.0
        is_ours = lanes.is_held(tx, attempt, hands.worker_id)
        queued = lanes.fail(tx, attempt, hands.worker_id, error, retry_at=again, limit=limit)
        if queued is not None:
            hands.enqueue(tx, queued, delay_s)
        run = runs.get(tx, attempt.run_id)
        if door is not None and is_ours and blame == "door":
            dues.set_due(tx, run.sync_id, None)  # as soon as one gets in
            if door.is_shut and door.since is not None and tried.began_at < door.since:
                door = None  # it had begun when that was not known yet: it is no further try
        if door is not None and is_ours:
            finding = Finding(
                said.summary, now, said.code, said.vendor, said.hint, sync=run.sync_name, run_id=run.run_id
            )
            next_try_s = retry.door_delay_s(door.tries + 1, random.random())
            next_try_at = now + timedelta(seconds=next_try_s) if blame == "door" else None
            connections.set_unable(tx, door.connection_id, finding, next_try_at=next_try_at)
        return Ended(run, e)


def _stopped(run: Run, state: RunState | None) -> RunStopped:
    match state:
        case None:
            return RunStopped(f"the run {run.run_id} is in other hands by now")
        case RunState.PAUSED:
            return RunStopped("the run was paused by a person", hint=f"to go on: isthmus sync resume {run.sync_name}")
        case RunState.CANCELLED:
            return RunStopped("the run was cancelled by a person", hint=f"to go on: isthmus sync run {run.sync_name}")
    return RunStopped(f"the run is {state.value}: something went wrong in another lane of it")


def _ours(e: Exception) -> IsthmusError:
    """Whatever it was as an error of ours. What we did not foresee is a fault in Isthmus: trying again is no use."""
    if isinstance(e, IsthmusError):
        return e
    if isinstance(e, OSError) and e.errno == errno.ENOSPC:
        return StoreFull("the disk is full", hint="free some space and run the sync again", vendor=str(e))
    if isinstance(e, OSError):
        return StoreMissing("files on their way cannot be written", hint="look after the home folder", vendor=str(e))
    return IsthmusError(
        "something went wrong inside Isthmus",
        hint="this is a fault in Isthmus: please report it with what is below",
        code=type(e).__name__,
        vendor=type(e).__name__,  # not its text: nobody knows what is in it
    )
