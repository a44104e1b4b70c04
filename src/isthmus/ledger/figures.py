"""Figures: the state of everything at one moment, for those who watch Isthmus from outside.

Asked every few seconds, of ledgers with a million runs: every statement here goes through an index and looks at what is
under way or of the last day. A test reads the query plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, bindparam, func, select, union_all

from isthmus.ledger import workers
from isthmus.ledger.database import Tx
from isthmus.ledger.schema import chunks, connections, incidents, lanes, runs, syncs
from isthmus.model.work import ACTIVE, ConnectionState, LaneState, RunState, SyncState

DAY = timedelta(hours=24)

OVER = tuple(state for state in RunState if state not in ACTIVE)
"""States of a run that is over."""

AT_WORK = (LaneState.QUEUED, LaneState.GOING)
"""States of a lane that can be counted: how many are idle says nothing, every run that is over leaves some."""


@dataclass(frozen=True)
class SyncFigures:
    """One sync. `run` is the state of its active run (None: none is); `finished` counts the runs that ended in the last
    24 hours by how they ended; `rows` and `size_bytes` are what was delivered in that time."""

    name: str
    state: SyncState
    fresh_at: datetime | None
    failures: int
    run: RunState | None
    finished: Mapping[RunState, int]
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class ConnectionFigures:
    """One connection, and when its checks were last asked (None: never)."""

    name: str
    state: ConnectionState
    checked_at: datetime | None


@dataclass(frozen=True)
class Figures:
    """Everything, at the moment `at`. `workers` counts by role those that were seen after the moment asked for."""

    at: datetime
    connections: tuple[ConnectionFigures, ...]
    syncs: tuple[SyncFigures, ...]
    lanes: Mapping[LaneState, int]
    workers: Mapping[str, int]
    incidents: Mapping[str, int]


def read(tx: Tx, *, at: datetime, seen_after: datetime) -> Figures:
    """The figures, in a handful of statements. Inside `ledger.reading` they are all of one moment."""
    since = at - DAY
    active = {row.sync_id: RunState(row.state) for row in tx.execute(active_runs())}
    ended: dict[str, dict[RunState, int]] = {}
    for row in tx.execute(finished(since)):
        ended.setdefault(row.sync_id, {})[RunState(row.state)] = row.runs
    moved = {row.sync_id: (int(row.rows), int(row.bytes)) for row in tx.execute(delivered(since))}
    found = []
    for sync in tx.execute(select(syncs).order_by(syncs.c.name)):
        rows, size_bytes = moved.get(sync.sync_id, (0, 0))
        found.append(
            SyncFigures(
                name=sync.name,
                state=SyncState(sync.state),
                fresh_at=sync.fresh_at,
                failures=sync.failures,
                run=active.get(sync.sync_id),
                finished=ended.get(sync.sync_id, {}),
                rows=rows,
                size_bytes=size_bytes,
            )
        )
    present: dict[str, int] = {}
    for worker in workers.every(tx):
        if worker.seen_at > seen_after:
            present[worker.role] = present.get(worker.role, 0) + 1
    return Figures(
        at=at,
        connections=tuple(
            ConnectionFigures(row.name, ConnectionState(row.state), row.checked_at)
            for row in tx.execute(select(connections).order_by(connections.c.name))
        ),
        syncs=tuple(found),
        lanes={LaneState(row.state): row.lanes for row in tx.execute(lanes_at_work())},
        workers=present,
        incidents={row.kind: row.incidents for row in tx.execute(open_incidents())},
    )


def active_runs() -> Select[tuple[str, str]]:
    """The state of each sync's active run."""
    return select(runs.c.sync_id, runs.c.state).where(_in(runs.c.state, "active", ACTIVE))


def lanes_at_work() -> Select[tuple[str, int]]:
    # Both conditions: the first is the index's own, word for word; without it SQLite does not take the index.
    busy = lanes.c.state != bindparam("idle", LaneState.IDLE, literal_execute=True)
    at_work = _in(lanes.c.state, "at_work", AT_WORK)
    return select(lanes.c.state, func.count().label("lanes")).where(busy, at_work).group_by(lanes.c.state)


def open_incidents() -> Select[tuple[str, int]]:
    open_ = incidents.c.cleared_at.is_(None)
    return select(incidents.c.kind, func.count().label("incidents")).where(open_).group_by(incidents.c.kind)


def finished(since: datetime) -> Select[tuple[str, str, int]]:
    """How many runs of each sync have ended since then, by state."""
    ended = union_all(
        select(runs.c.sync_id, runs.c.state).where(runs.c.planned_at >= since, runs.c.finished_at.is_not(None)),
        select(runs.c.sync_id, runs.c.state).where(runs.c.run_id.in_(_before(since)), runs.c.finished_at >= since),
    ).subquery("ended")
    counted = func.count().label("runs")
    return select(ended.c.sync_id, ended.c.state, counted).group_by(ended.c.sync_id, ended.c.state)


def delivered(since: datetime) -> Select[tuple[str, int, int]]:
    """The rows and bytes that each sync has delivered since then."""
    moved = union_all(
        # All that a run has delivered was delivered after it was planned: no need to look at its chunks.
        select(runs.c.sync_id, runs.c.rows_done.label("rows"), runs.c.bytes_done.label("bytes")).where(
            runs.c.planned_at >= since
        ),
        select(runs.c.sync_id, chunks.c.rows, chunks.c.size_bytes)
        .join_from(chunks, runs)
        .where(chunks.c.run_id.in_(_before(since)), chunks.c.done_at >= since),
    ).subquery("moved")
    # Grouped out here: inside, SQLite would walk through all runs by sync.
    return select(
        moved.c.sync_id, func.sum(moved.c.rows).label("rows"), func.sum(moved.c.bytes).label("bytes")
    ).group_by(moved.c.sync_id)


def _before(since: datetime) -> Select[tuple[str]]:
    """Of each sync the last run planned before `since`: the only one of them that can have been at work after it, since
    a sync has one active run at a time. (One that failed and was started again days later is not looked for.)"""
    last = (
        select(runs.c.run_id)
        .where(runs.c.sync_id == syncs.c.sync_id, runs.c.planned_at < since)
        .order_by(runs.c.planned_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(last.label("run_id")).select_from(syncs)


def _in(column: ColumnElement[str], name: str, words: tuple[str, ...]) -> ColumnElement[bool]:
    """The condition with the words in its text: a partial index is taken only where the text implies its condition."""
    return column.in_(bindparam(name, words, expanding=True, literal_execute=True))
