"""Syncs, runs and chunks as values, with the statuses a person sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from isthmus.model.mapping import Data, Mapping


class RunKind(StrEnum):
    HISTORICAL = "historical"  # the first run of a sync, or of a new generation of it: everything in scope
    PERIODIC = "periodic"  # what changed since the watermark
    REPAIR = "repair"  # windows that were found to differ, loaded again
    VERIFICATION = "verification"  # store and warehouse compared; nothing is loaded


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

GOING = (RunState.SCHEDULED, RunState.RUNNING, RunState.RETRYING)
"""States of a run that goes on by itself, without a person."""


class LaneState(StrEnum):
    """A lane is a strand of a run: every k-th of its chunks, so that several workers can share one run."""

    QUEUED = "queued"  # waits for a worker
    GOING = "going"  # a worker is at it
    IDLE = "idle"  # nothing to do, or stopped together with its run


@dataclass(frozen=True)
class Attempt:
    """One try at one lane of a run. The run engine carries out attempts; it knows nothing else of us."""

    run_id: str
    lane: int
    number: int

    def __str__(self) -> str:
        return f"{self.run_id}.{self.lane}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Attempt:
        run_id, lane, number = text.rsplit(".", 2)
        return cls(run_id, int(lane), int(number))


class SyncState(StrEnum):
    ENABLED = "enabled"
    PAUSED = "paused"  # by a person
    DISABLED = "disabled"  # its connection was removed; history is kept


class ConnectionState(StrEnum):
    """What was last found out about a connection, by its checks or by a run."""

    ENABLED = "enabled"
    UNABLE = "unable to connect"  # nobody gets in, or a right is missing: the finding says which
    DISABLED = "disabled"  # removed by a person; its history is kept


@dataclass(frozen=True)
class Finding:
    """Why a connection is unable, and when that was found out. Never holds a secret.

    Found by a check (then there is a `question`) or by a run of the sync `sync`. `statement` is the one that gives a
    missing right, where that is known.
    """

    summary: str
    at: datetime
    code: str = ""
    vendor: str = ""
    hint: str = ""
    statement: str = ""
    question: str = ""
    sync: str = ""
    run_id: str = ""


Blame = Literal["", "door", "grant"]


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
    include_imported: bool = False  # also events that were read from the warehouse they would go to


class Direction(StrEnum):
    EXPORT = "export"
    IMPORT = "import"


LOOK_BACK_S = 3600
"""How long after its changed-at time a row may become visible in a warehouse and still be found, unless a person says
otherwise: a transaction that was open for so long, a loader that stamps first and delivers later."""


Deletes = Literal["ignore", "remove"]

DELETES_LIMIT = 50
"""How many of the rows, in %, may be gone at once before that looks like a relation that is just being filled anew."""


@dataclass(frozen=True)
class Intake:
    """What an import brings in: the rows of a relation, through a mapping.

    `relation` is "schema.name", a name in the import schema, or empty if there is a `query`. Rows count as new until
    `look_back_s` after the time in their changed-at column.

    With a `key`, the columns that tell rows apart, there is no changed-at column: every run reads the whole relation
    and compares it with what it was. `deletes` says what becomes of rows that are gone: "ignore", or "remove" what they
    brought, as long as not more than `deletes_limit` % of the rows are.
    """

    data: Data
    relation: str
    mapping: Mapping
    query: str = ""
    look_back_s: int = LOOK_BACK_S
    key: tuple[str, ...] = ()
    deletes: Deletes = "ignore"
    deletes_limit: int = DELETES_LIMIT

    @property
    def what(self) -> str:
        """As a person names it."""
        return self.relation or "a query"


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
    the selection changes or a person asks for the history again.

    `next_due` is when its next run is to start (None: nothing scheduled), `failures` counts failed runs in a row, and
    `paused_because` says why it paused itself. `freshness_limit_s` is how far behind it may be before that is an
    incident (None: a limit that follows from the schedule).
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
    next_due: datetime | None = None
    failures: int = 0
    paused_because: str = ""
    freshness_limit_s: int | None = None
    intake: Intake | None = None  # of an import; then the selection says nothing

    @property
    def direction(self) -> Direction:
        return Direction.EXPORT if self.intake is None else Direction.IMPORT


@dataclass(frozen=True)
class RunError:
    """One thing that went wrong in a run, as kept for the error log. Never holds a secret.

    `blame` says whether its connection is why the run failed: nobody gets in there ("door"), or what the run needs was
    refused inside ("grant").
    """

    summary: str
    code: str
    vendor: str
    hint: str
    retryable: bool
    at: datetime
    chunk: str = ""
    attempt: int = 0
    blame: Blame = ""


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
    lane: int = 0
    size_bytes: int = 0
    begun_at: datetime | None = None
    done_at: datetime | None = None


@dataclass(frozen=True)
class Run:
    """One execution of a sync over one window of store commits (`after`, `upto`].

    Until it is `planned` it has neither a window nor chunks. `tries` counts transient errors since anything went right;
    `retry_at` is when the next attempt is due while it is `retrying`.
    """

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
    planned: bool = True
    scheduled_at: datetime | None = None
    tries: int = 0
    retry_at: datetime | None = None
    bytes_done: int = 0
    can_go_again: bool = False  # it failed, and nothing was begun in its place
    counts: dict[str, Any] = field(default_factory=dict)  # of an import: what became of the rows

    @property
    def active(self) -> bool:
        return self.state in ACTIVE
