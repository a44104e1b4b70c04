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

from isthmus.ledger import dues, lanes, runs
from isthmus.ledger.database import Ledger, Tx
from isthmus.model.errors import InvalidInput, IsthmusError, RunStopped, StoreFull, StoreMissing, SyncBusy
from isthmus.model.work import GOING, Attempt, Chunk, Run, RunError, RunState
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
    """What runs of one direction do."""

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


@dataclass(frozen=True)
class Hands:
    """Who carries out: a worker, or a command. `enqueue` tells the engine of an attempt, in the given transaction;
    `stopping` says that the process is to end and its lanes to be handed over. `alone`: for this run there is nobody
    else, so that more lanes than one would be in vain."""

    worker_id: str
    now: Callable[[], datetime]
    enqueue: Callable[[Tx, Attempt, float], None] = lambda tx, attempt, delay_s: None
    stopping: Callable[[], bool] = lambda: False
    report: Report = lambda run, done: None
    alone: bool = False


@dataclass(frozen=True)
class Ended:
    """How an attempt came back: the run as it is then (None: there was nothing to do), and what stopped it."""

    run: Run | None
    error: IsthmusError | None = None
    stale: bool = False  # the run was cancelled because its chunks cannot be made again: a new one will do


def carry_out(ledger: Ledger, work: Work, attempt: Attempt, hands: Hands, *, begun: Run | None = None) -> Ended:
    """Carry out one attempt at one lane. What goes wrong is kept in the run's error log and becomes its state.

    `begun` is the run if its lane is going at these hands already. Raises only what keeps the ledger from being told.
    """
    run = begun or _begin(ledger, attempt, hands)
    if run is None:
        return Ended(None)
    at = "planning"
    try:
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
            at = "opening"
            with work.open(run) as do:
                for chunk in todo:
                    at = f"{chunk.table} {chunk.part} ({chunk.seqs_after}, {chunk.seqs_upto}]"
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
                    done += result.rows
                    hands.report(run, done)
                    if state is not RunState.RUNNING:
                        raise _stopped(run, state)
                    if hands.stopping() and chunk is not todo[-1]:
                        return _hand_over(ledger, attempt, hands)
        at = "closing"
        counts = work.outcome(run)
        with ledger.transaction() as tx:
            if counts:
                runs.set_counts(tx, run.run_id, counts)
            present = lanes.settle(tx, attempt, hands.worker_id, at=hands.now()) or runs.get(tx, run.run_id)
        if present.state not in (RunState.COMPLETED, *GOING):
            raise _stopped(run, present.state)
        return Ended(present)
    except RunStopped as e:
        with ledger.transaction() as tx:
            lanes.let_go(tx, attempt, hands.worker_id, at=hands.now())
            return Ended(runs.get(tx, run.run_id), e)
    except Exception as caught:
        return _fail(ledger, attempt, hands, _ours(caught), at)


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
    return Ended(run, RunStopped("this process is to end; another one goes on with the run"))


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


def _fail(ledger: Ledger, attempt: Attempt, hands: Hands, e: IsthmusError, at: str) -> Ended:
    now = hands.now()
    error = RunError(e.summary, e.code, e.vendor, e.hint, e.retryable, now, at, attempt.number)
    with ledger.transaction() as tx:
        tries = runs.get(tx, attempt.run_id).tries + 1
        delay_s = retry.delay_s(tries, random.random())
        again = now + timedelta(seconds=delay_s) if e.retryable and tries < retry.MAX_TRIES else None
        queued = lanes.fail(tx, attempt, hands.worker_id, error, retry_at=again, limit=retry.MAX_FAILURES)
        if queued is not None:
            hands.enqueue(tx, queued, delay_s)
        return Ended(runs.get(tx, attempt.run_id), e)


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
