"""Syncs, runs and chunks as values, with the statuses a person sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class RunKind(StrEnum):
    HISTORICAL = "historical"  # the first run of a sync, or of a new generation of it: everything in scope
    PERIODIC = "periodic"  # what changed since the watermark
    REPAIR = "repair"  # windows that were found to differ, loaded again


class RunState(StrEnum):
    SCHEDULED = "scheduled"  # waits for its turn
    RUNNING = "running"  # chunks are being delivered; after a crash also until the next attempt picks it up
    RETRYING = "retrying"  # a transient error; will be tried again
    FAILED = "failed"  # needs a person
    PAUSED = "paused"  # stopped by a person at a chunk boundary
    CANCELLED = "cancelled"  # ended by a person; will not run again
    COMPLETED = "completed"


ACTIVE = (RunState.SCHEDULED, RunState.RUNNING, RunState.RETRYING, RunState.PAUSED)
"""States of a run that still has work to do. A sync has at most one such run."""


class SyncState(StrEnum):
    ENABLED = "enabled"
    PAUSED = "paused"  # by a person
    DISABLED = "disabled"  # its connection was removed; history is kept


class ConnectionState(StrEnum):
    ENABLED = "enabled"
    UNABLE = "unable to connect"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Selection:
    """Which rows an export carries. Metrics and integrations narrow events only, never profiles.

    `metrics` None means all. `history` is as the person wrote it: "30d", "90d", "1y", "all" or an ISO date.
    """

    profiles: bool = True
    events: bool = True
    metrics: tuple[str, ...] | None = None
    exclude_integrations: tuple[str, ...] = ()
    history: str = "all"
    table_prefix: str = "klaviyo_"


@dataclass(frozen=True)
class Scope:
    """The fixed bounds of one generation of an export: what its first run may take from the past.

    An event is in scope when it happened at or after `events_since` (None: any time) **or** landed after
    `connected_seq`: history is cut by time, what arrives later is not.
    """

    events_since: datetime | None
    connected_seq: int


@dataclass(frozen=True)
class Sync:
    """A standing wish to keep tables up to date in a warehouse.

    `watermark` is the store commit up to which everything in scope is in the warehouse (0: nothing yet), `snapshot_id`
    the store's snapshot of that moment, `fresh_at` its time: "your data is complete up to". `generation` rises when
    the selection changes or a person asks for the history again; batch ids carry it.
    """

    sync_id: str
    name: str
    connection_id: str
    connection_name: str
    selection: Selection
    schedule: str
    state: SyncState
    generation: int
    watermark: int
    snapshot_id: int | None
    fresh_at: datetime | None
    scope: Scope | None
    created_at: datetime


@dataclass(frozen=True)
class RunError:
    """One thing that went wrong in a run, as kept for the error log. Never holds a secret."""

    summary: str
    code: str
    vendor: str
    hint: str
    retryable: bool
    at: datetime
    chunk: str = ""


@dataclass(frozen=True)
class Chunk:
    """A part of a run with a stable key, done once and recorded: one batch of one table.

    `seqs_after` and `seqs_upto` bound the store commits it covers; `part` is "rows" (present rows) or "deletes"
    (tombstones). `rows` is what the plan expects until the chunk is done, then what was delivered.
    """

    number: int
    table: str
    part: str
    seqs_after: int
    seqs_upto: int
    batch_id: str
    rows: int
    adds_only: bool
    done: bool = False
    replaces_after: int | None = None
    replaces_upto: int | None = None
    replaces: bool = False


@dataclass(frozen=True)
class Run:
    """One execution of a sync over one window of store commits (`after`, `upto`]."""

    run_id: str
    sync_id: str
    sync_name: str
    kind: RunKind
    state: RunState
    after: int
    upto: int
    snapshot_id: int
    snapshot_at: datetime
    planned_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rows_total: int = 0
    rows_done: int = 0
    chunks: tuple[Chunk, ...] = ()
    errors: tuple[RunError, ...] = field(default=())
