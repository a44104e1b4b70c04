"""What a person reads about runs and syncs: their status in one of a few words, how far they are, how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from isthmus.model.work import Chunk, Run, RunState, Sync, SyncState

_MEASURED = 10
"""The estimate follows from the last chunks: how fast a warehouse is changes within a night."""


class Status(StrEnum):
    """The words of the console, the same everywhere."""

    SCHEDULED = "Scheduled"  # waits for its time, or for a worker
    IN_PROGRESS = "In progress"
    ERROR = "Error"  # will be tried again by itself
    FAILED = "Failed"  # needs a person
    PAUSED = "Paused"
    DISABLED = "Disabled"  # its connection was removed
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"  # of single runs only: a person ended this one, the sync goes on


_OF_RUN = {
    RunState.SCHEDULED: Status.SCHEDULED,
    RunState.RUNNING: Status.IN_PROGRESS,
    RunState.RETRYING: Status.ERROR,
    RunState.FAILED: Status.FAILED,
    RunState.PAUSED: Status.PAUSED,
    RunState.CANCELLED: Status.CANCELLED,
    RunState.COMPLETED: Status.COMPLETED,
}


@dataclass(frozen=True)
class Progress:
    """How far a run is. `share` is None until it is planned, `seconds_left` while nothing was measured yet."""

    rows_done: int
    rows_total: int
    share: float | None
    seconds_left: float | None

    @property
    def percent(self) -> int | None:
        """Rounded down: 100 means done."""
        return None if self.share is None else int(self.share * 100)


def of_run(run: Run) -> Status:
    return _OF_RUN[run.state]


def of_sync(sync: Sync, newest: Run | None) -> Status | None:
    """The status of a sync, from itself and its newest run. One that only a person starts is completed in between; None
    if it never was, and nobody has asked for a run."""
    if sync.state is SyncState.DISABLED:
        return Status.DISABLED
    if sync.state is SyncState.PAUSED:
        return Status.PAUSED
    if newest is not None and (newest.active or newest.state is RunState.FAILED):
        return of_run(newest)
    if sync.schedule == "manual":
        return Status.COMPLETED if newest is not None and newest.state is RunState.COMPLETED else None
    return Status.SCHEDULED


def progress(run: Run) -> Progress:
    """How far a run is, and how long the rest takes at the pace of its last chunks, lanes side by side."""
    total = max(run.rows_total, run.rows_done)
    if run.state is RunState.COMPLETED:
        return Progress(run.rows_done, run.rows_done, 1.0, 0.0)
    if not run.planned:
        return Progress(0, 0, None, None)
    left = [c for c in run.chunks if not c.done]
    if run.chunks:
        rows_left = sum(c.rows for c in left)
        share = run.rows_done / (run.rows_done + rows_left) if run.rows_done + rows_left else 0.0
    else:
        rows_left = total - run.rows_done
        share = run.rows_done / total if total else 0.0
    pace = _seconds_a_row(run.chunks)
    going = run.state is RunState.RUNNING and pace is not None
    seconds = rows_left * pace / max(1, len({c.lane for c in left})) if going and pace is not None else None
    return Progress(run.rows_done, run.rows_done + rows_left, min(share, 0.999) if left else share, seconds)


def words(status: Status, run: Run | None, *, shown: str = "") -> str:
    """A status with what belongs to it: how far, or when it is tried again (`shown` as a person reads that time)."""
    if status is Status.IN_PROGRESS and run is not None:
        percent = progress(run).percent
        return f"{status.value} (planning)" if percent is None else f"{status.value} ({percent} %)"
    if status is Status.ERROR and shown:
        return f"{status.value} (retrying at {shown})"
    return status.value


def _seconds_a_row(chunks: Sequence[Chunk]) -> float | None:
    timed = [c for c in chunks if c.done and c.begun_at and c.done_at]
    timed = sorted(timed, key=lambda c: c.done_at or datetime.min)[-_MEASURED:]
    rows = sum(c.rows for c in timed)
    seconds = sum((c.done_at - c.begun_at).total_seconds() for c in timed if c.done_at and c.begun_at)
    return seconds / rows if rows else None
