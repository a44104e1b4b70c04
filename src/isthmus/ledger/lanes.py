"""Lanes: who is at which strand of which run. The one place that says whether a worker may still write.

A lane is queued, then a worker begins it and it is going, then it is idle. Whoever is not (any longer) the worker of a
going lane gets a "no" from everything here, so that a process which was frozen, or cut off, and thought dead cannot
write into a run that others have taken up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update

from isthmus.ledger import errors, failures, runs, workers
from isthmus.ledger.database import Tx
from isthmus.ledger.schema import chunks, connections, lanes, syncs
from isthmus.ledger.schema import runs as runs_table
from isthmus.model.errors import RunStopped
from isthmus.model.work import GOING, Attempt, LaneState, Run, RunError, RunKind, RunState

POLITE = timedelta(seconds=4)
"""For how long a lane is left to workers that have less to do: some looks of theirs into the queue."""

_BUSY = lanes.c.state != bindparam("idle", LaneState.IDLE, literal_execute=True)
"""The condition of the index on lanes, word for word: SQLite takes it for nothing less, and every run that is over
leaves idle lanes."""


@dataclass(frozen=True)
class Waiting:
    """A lane that waits for a worker, and the connection whose limit it counts against."""

    attempt: Attempt
    due_at: datetime | None
    connection_id: str
    kind: str
    concurrency: int | None


def begin(tx: Tx, attempt: Attempt, worker_id: str, *, at: datetime) -> Run | None:
    """Let a worker be the one at a queued lane, and the run be running. None: there is nothing (more) to do for it.

    A worker that the others gave up and that does not know it yet begins nothing: the lane would be taken from it the
    next second, and count that as a death.
    """
    if not workers.is_there(tx, worker_id):
        return None
    return _begin(tx, attempt, worker_id, at=at)


def _begin(tx: Tx, attempt: Attempt, worker_id: str, *, at: datetime) -> Run | None:
    run, _ = runs.held(tx, attempt.run_id)
    lane = _one(tx, attempt)
    if lane is None or lane.attempt != attempt.number or lane.state != LaneState.QUEUED:
        return None
    if run.state not in GOING:
        _set(tx, attempt, state=LaneState.IDLE, worker_id=None, due_at=None)
        return None
    _set(tx, attempt, state=LaneState.GOING, worker_id=worker_id, due_at=None)
    tx.execute(
        update(runs_table)
        .where(runs_table.c.run_id == run.run_id)
        .values(
            state=RunState.RUNNING,
            retry_at=None,
            finished_at=None,
            started_at=func.coalesce(runs_table.c.started_at, at),
        )
    )
    return runs.get(tx, run.run_id)


def pass_on(tx: Tx, attempt: Attempt, worker_id: str, *, at: datetime) -> Attempt | None:
    """Leave a queued lane to another worker: the attempt that is queued instead. None if this worker should take it.

    It is left when this worker has its share of the run already and another one has less to do. Only for a moment:
    nobody knows that the other one really comes.
    """
    runs.held(tx, attempt.run_id)
    lane = _one(tx, attempt)
    if lane is None or lane.attempt != attempt.number or lane.state != LaneState.QUEUED:
        return None
    if lane.due_at is None or at - lane.due_at > POLITE:
        return None
    busy = tx.execute(select(lanes.c.run_id, lanes.c.worker_id).where(_BUSY)).all()
    of_run = [row.worker_id for row in busy if row.run_id == attempt.run_id]
    load = _load(tx)
    share = -(-len(of_run) // max(1, len(load)))
    mine = load.get(worker_id, 0)
    if of_run.count(worker_id) < share or all(other >= mine for other in load.values()):
        return None
    return _queue_again(tx, lane, due_at=lane.due_at)


def _load(tx: Tx) -> dict[str, int]:
    """How many lanes each worker is at, of those that take up runs."""
    at = list(tx.scalars(select(lanes.c.worker_id).where(_BUSY)))
    return {w.worker_id: at.count(w.worker_id) for w in workers.every(tx) if w.takes_runs}


def has_less_to_do(tx: Tx, worker_id: str) -> bool:
    """Whether another worker is at clearly fewer lanes than this one."""
    load = _load(tx)
    mine = load.pop(worker_id, 0)
    return any(other < mine - 1 for other in load.values())


def is_held(tx: Tx, attempt: Attempt, worker_id: str) -> bool:
    """Whether that worker is still the one at the lane."""
    lane = _one(tx, attempt)
    return lane is not None and (lane.attempt, lane.state, lane.worker_id) == (
        attempt.number,
        LaneState.GOING,
        worker_id,
    )


def goes_on(tx: Tx, attempt: Attempt, worker_id: str) -> RunState | None:
    """What a worker asks after each chunk: the state of its run if that is not to go on (then it is off the lane), or
    `running`; None if the lane is somebody else's by now."""
    run, _ = runs.held(tx, attempt.run_id)
    if not is_held(tx, attempt, worker_id):
        return None
    _set(tx, attempt, deaths=0)
    if run.state is not RunState.RUNNING:
        _set(tx, attempt, state=LaneState.IDLE, worker_id=None)
    return run.state


def widen(tx: Tx, run_id: str, count: int, *, at: datetime) -> list[Attempt]:
    """Spread a run that was just planned over `count` lanes: chunk n belongs to lane n modulo count."""
    tx.execute(update(chunks).where(chunks.c.run_id == run_id).values(lane=chunks.c.number % count))
    return [_add(tx, run_id, lane, at) for lane in range(1, count)]


def wake(tx: Tx, attempt: Attempt, *, at: datetime) -> list[Attempt]:
    """Queue those other lanes of the run that stopped with work left: the run goes on."""
    left = _with_work(tx, attempt.run_id)
    found = tx.execute(
        select(lanes).where(
            lanes.c.run_id == attempt.run_id, lanes.c.lane != attempt.lane, lanes.c.state == LaneState.IDLE
        )
    ).all()
    return [_queue_again(tx, row, due_at=at) for row in found if row.lane in left]


def put_back(tx: Tx, attempt: Attempt, *, at: datetime) -> Attempt | None:
    """Queue a lane anew that was taken out of its queue and not begun: the attempt that is queued instead. None if it
    is not as it was."""
    runs.held(tx, attempt.run_id)
    lane = _one(tx, attempt)
    if lane is None or lane.attempt != attempt.number or lane.state != LaneState.QUEUED:
        return None
    return _queue_again(tx, lane, due_at=lane.due_at or at)


def hand_over(tx: Tx, attempt: Attempt, worker_id: str, *, at: datetime) -> Attempt | None:
    """Give a lane back between two chunks, for another worker: the attempt that is queued instead. None if the lane is
    somebody else's by now, or the run is not to go on."""
    run, _ = runs.held(tx, attempt.run_id)
    if not is_held(tx, attempt, worker_id):
        return None
    if run.state not in GOING:
        _set(tx, attempt, state=LaneState.IDLE, worker_id=None)
        return None
    lane = _one(tx, attempt)
    assert lane is not None
    queued = _queue_again(tx, lane, due_at=at)
    _restate(tx, attempt.run_id)
    return queued


def fail(
    tx: Tx, attempt: Attempt, worker_id: str, error: RunError, *, retry_at: datetime | None, limit: int | None
) -> Attempt | None:
    """Keep what went wrong at a lane. With `retry_at` the run is retrying and the next attempt queued for then (it is
    the answer); without, it failed, and its sync pauses itself at the `limit`-th failure in a row. None: this failure
    does not count, for it is not the sync's.

    A run that a person paused or ended meanwhile stays as it is, and so does one whose lane is somebody else's by now.
    """
    run, sync = runs.held(tx, attempt.run_id)
    if not is_held(tx, attempt, worker_id):
        errors.keep(tx, attempt.run_id, error)
        return None
    lane = _one(tx, attempt)
    assert lane is not None
    if run.state is not RunState.RUNNING and run.state is not RunState.RETRYING:
        errors.keep(tx, attempt.run_id, error)
        _set(tx, attempt, state=LaneState.IDLE, worker_id=None)
        return None
    runs.fail(tx, attempt.run_id, error, state=RunState.FAILED if retry_at is None else RunState.RETRYING)
    if retry_at is None:
        _idle(tx, attempt.run_id)
        if limit is not None:
            failures.failed(tx, sync.sync_id, because=error.summary, limit=limit, at=error.at)
        return None
    tx.execute(
        update(runs_table)
        .where(runs_table.c.run_id == run.run_id)
        .values(retry_at=retry_at, tries=runs_table.c.tries + 1)
    )
    return _queue_again(tx, lane, due_at=retry_at)


def settle(tx: Tx, attempt: Attempt, worker_id: str, *, at: datetime) -> Run | None:
    """A lane has no chunk left. The last one to say so completes the run, which is the answer; else None.

    None too if the run was stopped meanwhile: the worker is off the lane then. Raises RunStopped if it is somebody
    else's.
    """
    run, sync = runs.held(tx, attempt.run_id)
    if not is_held(tx, attempt, worker_id):
        raise RunStopped(f"the run {attempt.run_id} is in other hands by now")
    _set(tx, attempt, state=LaneState.IDLE, worker_id=None, deaths=0)
    if run.state not in GOING:
        return None
    if runs.left(tx, attempt.run_id):
        _restate(tx, attempt.run_id)
        return None
    done = runs.finish(tx, attempt.run_id, at=at)
    failures.succeeded(tx, sync.sync_id)
    return done


def let_go(tx: Tx, attempt: Attempt, worker_id: str, *, at: datetime) -> None:
    """A worker that was told to stop leaves its lane, if it has not yet. A run that would go on all the same, though
    nobody may finish it (its sync has moved on without it), is cancelled: else it would be taken up for ever."""
    run, _ = runs.held(tx, attempt.run_id)
    if not is_held(tx, attempt, worker_id):
        return
    _set(tx, attempt, state=LaneState.IDLE, worker_id=None)
    if run.state in GOING:
        runs.set_state(tx, attempt.run_id, RunState.CANCELLED, at=at)
        _idle(tx, attempt.run_id)


def queue(tx: Tx, run_id: str, *, at: datetime) -> list[Attempt]:
    """Let a run that stopped go on: queue its lanes that have work and nobody at them. The run is scheduled then, or
    running if a worker has not even noticed that it was to stop. What went wrong before does not count any more.

    Raises SyncBusy if it cannot: a newer run is active, or has moved the watermark.
    """
    run, _ = runs.held(tx, run_id)
    if run.state not in (RunState.SCHEDULED, RunState.RUNNING):
        runs.set_state(tx, run_id, RunState.SCHEDULED, at=at)
    tx.execute(update(runs_table).where(runs_table.c.run_id == run_id).values(retry_at=None, tries=0))
    tx.execute(update(lanes).where(lanes.c.run_id == run_id).values(deaths=0))
    left = _with_work(tx, run_id) if run.planned else {0}
    found = tx.execute(
        select(lanes).where(lanes.c.run_id == run_id, lanes.c.state != LaneState.GOING).order_by(lanes.c.lane)
    ).all()
    if not left and run.planned:
        left = {found[0].lane} if found else set()  # nothing but to close it
    queued = [_queue_again(tx, row, due_at=at) for row in found if row.lane in left]
    _restate(tx, run_id)
    return queued


def lost(tx: Tx, gone: Collection[str], *, deaths: int, failures_limit: int, at: datetime) -> list[Attempt]:
    """Queue the lanes of workers that are gone. A lane at which so many `deaths` came in a row fails its run: something
    in it kills whoever tries; see `fail` for the limit of that. A verification that nobody is at is cancelled."""
    found = tx.execute(
        select(lanes).where(_BUSY, lanes.c.state == LaneState.GOING, lanes.c.worker_id.in_(list(gone)))
    ).all()
    queued: list[Attempt] = []
    for row in found:
        run, sync = runs.held(tx, row.run_id)
        attempt = Attempt(row.run_id, row.lane, row.attempt)
        if not is_held(tx, attempt, row.worker_id):
            continue
        if run.kind is RunKind.VERIFICATION and run.active:
            runs.set_state(tx, run.run_id, RunState.CANCELLED, at=at)
        if run.state not in GOING or run.kind is RunKind.VERIFICATION:
            _set(tx, attempt, state=LaneState.IDLE, worker_id=None)
        elif row.deaths + 1 >= deaths:
            summary = f"the process died {row.deaths + 1} times in a row at the same place"
            hint = "look at the worker's memory and its logs; the run goes on with the next one or `isthmus sync run`"
            error = RunError(summary, "WorkerDied", "", hint, False, at, f"lane {row.lane}", row.attempt)
            runs.fail(tx, run.run_id, error)
            _idle(tx, run.run_id)
            failures.failed(tx, sync.sync_id, because=summary, limit=failures_limit, at=at)
        else:
            # The same attempt: the engine knows it too and gives it to another worker.
            _set(tx, attempt, state=LaneState.QUEUED, worker_id=None, due_at=at, deaths=row.deaths + 1)
            _restate(tx, run.run_id)
            queued.append(attempt)
    return queued


def waiting(tx: Tx, run_ids: Collection[str] | None = None) -> list[Waiting]:
    """The queued lanes of runs that go on by themselves (of all or of those), those due first at the front."""
    query = (
        select(
            lanes, connections.c.connection_id, connections.c.kind.label("connection_kind"), connections.c.concurrency
        )
        .join(runs_table, runs_table.c.run_id == lanes.c.run_id)
        .join(syncs, syncs.c.sync_id == runs_table.c.sync_id)
        .join(connections, connections.c.connection_id == syncs.c.connection_id)
        .where(_BUSY, lanes.c.state == LaneState.QUEUED, runs_table.c.state.in_(GOING))
        .order_by(lanes.c.due_at)
    )
    if run_ids is not None:
        query = query.where(lanes.c.run_id.in_(list(run_ids)))
    return [
        Waiting(Attempt(r.run_id, r.lane, r.attempt), r.due_at, r.connection_id, r.connection_kind, r.concurrency)
        for r in tx.execute(query)
    ]


def going(tx: Tx) -> dict[Attempt, str]:
    """The lanes that somebody is at, and who."""
    rows = tx.execute(select(lanes).where(_BUSY, lanes.c.state == LaneState.GOING))
    return {Attempt(r.run_id, r.lane, r.attempt): r.worker_id for r in rows}


def again(tx: Tx, attempt: Attempt, worker_id: str | None, *, at: datetime) -> Attempt | None:
    """Queue a lane anew, to be begun at once, whose attempt ended without a word. None if it is not as it was, or the
    run is not to go on."""
    run, _ = runs.held(tx, attempt.run_id)
    lane = _one(tx, attempt)
    if lane is None or lane.attempt != attempt.number or lane.worker_id != worker_id or lane.state == LaneState.IDLE:
        return None
    if run.state not in GOING:
        _set(tx, attempt, state=LaneState.IDLE, worker_id=None, due_at=None)
        return None
    queued = _queue_again(tx, lane, due_at=at)
    later = (runs_table.c.run_id == attempt.run_id, runs_table.c.retry_at > at)
    tx.execute(update(runs_table).where(*later).values(retry_at=at))
    _restate(tx, attempt.run_id)
    return queued


def open_lane(tx: Tx, run_id: str, worker_id: str | None, *, at: datetime) -> Attempt:
    """The first lane of a new run: queued, or going at once at `worker_id`."""
    attempt = _add(tx, run_id, 0, at)
    if worker_id is not None:
        _begin(tx, attempt, worker_id, at=at)
    return attempt


def of(tx: Tx, run_id: str) -> list[Attempt]:
    """The present attempts at the lanes of a run."""
    rows = tx.execute(select(lanes).where(lanes.c.run_id == run_id).order_by(lanes.c.lane))
    return [Attempt(r.run_id, r.lane, r.attempt) for r in rows]


def left_open(found: Run) -> Sequence[int]:
    """The chunks of a run that somebody may still be loading: the first one of each lane that is not done."""
    first: dict[int, int] = {}
    for chunk in found.chunks:
        if not chunk.done:
            first.setdefault(chunk.lane, chunk.number)
    return sorted(first.values())


def _add(tx: Tx, run_id: str, lane: int, at: datetime) -> Attempt:
    tx.execute(
        insert(lanes).values(
            run_id=run_id, lane=lane, attempt=1, state=LaneState.QUEUED, worker_id=None, due_at=at, deaths=0
        )
    )
    return Attempt(run_id, lane, 1)


def _one(tx: Tx, attempt: Attempt) -> Row[Any] | None:
    return tx.execute(select(lanes).where(lanes.c.run_id == attempt.run_id, lanes.c.lane == attempt.lane)).one_or_none()


def _set(tx: Tx, attempt: Attempt, /, **values: Any) -> None:
    tx.execute(update(lanes).where(lanes.c.run_id == attempt.run_id, lanes.c.lane == attempt.lane).values(**values))


def _queue_again(tx: Tx, row: Row[Any], *, due_at: datetime) -> Attempt:
    attempt = Attempt(row.run_id, row.lane, row.attempt + 1)
    _set(tx, attempt, attempt=attempt.number, state=LaneState.QUEUED, worker_id=None, due_at=due_at)
    return attempt


def _idle(tx: Tx, run_id: str) -> None:
    """Nobody is to begin a lane of this run. Those at one notice by themselves."""
    tx.execute(update(lanes).where(lanes.c.run_id == run_id).values(state=LaneState.IDLE, worker_id=None, due_at=None))


def _with_work(tx: Tx, run_id: str) -> set[int]:
    return set(tx.scalars(select(chunks.c.lane).where(chunks.c.run_id == run_id, chunks.c.done.is_(False)).distinct()))


def _restate(tx: Tx, run_id: str) -> None:
    """A run is running while a worker is at one of its lanes, and scheduled while all of them wait."""
    busy = tx.scalar(select(func.count()).where(lanes.c.run_id == run_id, lanes.c.state == LaneState.GOING))
    tx.execute(
        update(runs_table)
        .where(runs_table.c.run_id == run_id, runs_table.c.state.in_((RunState.RUNNING, RunState.SCHEDULED)))
        .values(state=RunState.RUNNING if busy else RunState.SCHEDULED)
    )
