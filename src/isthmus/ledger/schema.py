"""The tables of the ledger, the same on SQLite and PostgreSQL.

The migrations make them; a test proves that both say the same. `HEAD` is the newest migration: an open ledger that is
already there is used without loading the migration tool.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
    true,
)

from isthmus.model.work import ACTIVE

HEAD = "0004"
VERSION_TABLE = "ledger_version"


class Instant(TypeDecorator[datetime]):
    """An aware UTC time with microseconds. SQLite keeps no zone, so it is taken off on the way in and put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times in the ledger are aware")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_once",
        "ix": "%(table_name)s_by_%(column_0_N_name)s",
    }
)

connections = Table(
    "connections",
    metadata,
    Column("connection_id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("fields", JSON, nullable=False),  # plain fields by name
    Column("sealed", JSON, nullable=False),  # secret fields by name, each sealed
    Column("state", String, nullable=False),
    Column("checked_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("concurrency", Integer),  # NULL: what its kind says
    Column("version", Integer, nullable=False, server_default="1"),  # rises with every change of a field or a secret
    Column("state_since", Instant),  # NULL: ever since it was made
    Column("finding", JSON(none_as_null=True)),  # why it is unable; NULL: it is not
    Column("next_try_at", Instant),  # unable, and nothing at all can be done there: not before then
    Column("tries", Integer, nullable=False, server_default="0"),  # in vain, since it was last able
    Column("nightly", Boolean, nullable=False, server_default=true()),  # whether its checks are repeated at night
    Column("nightly_at", Instant),  # when somebody last began to repeat them
)

checks = Table(
    "checks",
    metadata,
    Column("check_id", Integer, primary_key=True),
    Column("connection_id", ForeignKey(connections.c.connection_id), nullable=False, index=True),
    Column("at", Instant, nullable=False),
    Column("answers", JSON, nullable=False),
    Column("asked", String, nullable=False, server_default="person"),  # by whom: "person" | "nightly"
)

syncs = Table(
    "syncs",
    metadata,
    Column("sync_id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("connection_id", ForeignKey(connections.c.connection_id), nullable=False, index=True),
    Column("selection", JSON, nullable=False),
    Column("schedule", String, nullable=False),
    Column("state", String, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("snapshot_id", BigInteger),
    Column("fresh_at", Instant),
    Column("events_since", Instant),
    Column("connected_seq", BigInteger),  # NULL while the generation has no scope yet
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("next_due", Instant),  # NULL: not known yet, or manual
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("paused_because", String),  # NULL: by a person, or not at all
    Column("freshness_limit_s", BigInteger),
    Column("intake", JSON(none_as_null=True)),  # of an import: relation, mapping, look-back; NULL: an export
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("sync_id", ForeignKey(syncs.c.sync_id), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("seqs_after", BigInteger, nullable=False),
    Column("seqs_upto", BigInteger, nullable=False),
    Column("snapshot_id", BigInteger, nullable=False),
    Column("snapshot_at", Instant, nullable=False),
    Column("planned_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("rows_total", BigInteger, nullable=False),
    Column("rows_done", BigInteger, nullable=False),
    Column("planned", Boolean, nullable=False, server_default=true()),
    Column("scheduled_at", Instant),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("retry_at", Instant),
    Column("bytes_done", BigInteger, nullable=False, server_default="0"),
    Column("counts", JSON(none_as_null=True)),  # of an import: landed, repeated, rejected …
    Column("closing", Integer, nullable=False, server_default="0"),  # 1: must not go again, 2: nothing of it can arrive
)

_active = text("state IN ({})".format(", ".join(f"'{state}'" for state in ACTIVE)))
Index("one_active_run", runs.c.sync_id, unique=True, sqlite_where=_active, postgresql_where=_active)
Index("runs_by_sync_id_planned_at", runs.c.sync_id, runs.c.planned_at)
Index("runs_by_planned_at", runs.c.planned_at)

chunks = Table(
    "chunks",
    metadata,
    Column("run_id", ForeignKey(runs.c.run_id), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("table_name", String, nullable=False),
    Column("part", String, nullable=False),
    Column("seqs_after", BigInteger, nullable=False),
    Column("seqs_upto", BigInteger, nullable=False),
    Column("batch_id", String, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("adds_only", Boolean, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("replaces", Boolean, nullable=False),
    Column("replaces_after", BigInteger),
    Column("replaces_upto", BigInteger),
    Column("lane", Integer, nullable=False, server_default="0"),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("begun_at", Instant),
    Column("done_at", Instant),
    UniqueConstraint("run_id", "batch_id"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("run_id", ForeignKey(runs.c.run_id), primary_key=True),
    Column("lane", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("worker_id", String),  # who is at it; what others write is refused
    Column("due_at", Instant),  # queued: not before then
    Column("deaths", Integer, nullable=False),  # workers that died at it since anything went right
)
_busy = text("state <> 'idle'")
Index("lanes_at_work", lanes.c.state, lanes.c.worker_id, sqlite_where=_busy, postgresql_where=_busy)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", String, primary_key=True),
    Column("role", String, nullable=False),  # "serve" | "worker" | "command"
    Column("place", String, nullable=False),  # host and process, for a person to find it
    Column("beat", BigInteger, nullable=False),  # counts up while it lives
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
)

incidents = Table(
    "incidents",
    metadata,
    Column("incident_id", String, primary_key=True),
    Column("sync_id", ForeignKey(syncs.c.sync_id)),  # NULL: it is about a connection
    Column("kind", String, nullable=False),  # "failure" | "silence" | "unable" | "drift"
    Column("summary", String, nullable=False),
    Column("details", JSON, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("cleared_at", Instant),
    Column("told", JSON, nullable=False),  # by channel: which of "opened" and "cleared" has been told
    Column("settled", Boolean, nullable=False),  # nothing is left to be told
    Column("connection_id", ForeignKey(connections.c.connection_id)),  # NULL: it is about a sync
)
_open = text("cleared_at IS NULL")
Index(
    "one_open_incident",
    incidents.c.sync_id,
    incidents.c.kind,
    unique=True,
    sqlite_where=_open,
    postgresql_where=_open,
)
Index(
    "one_open_incident_of_a_connection",
    incidents.c.connection_id,
    incidents.c.kind,
    unique=True,
    sqlite_where=_open,
    postgresql_where=_open,
)
Index("incidents_by_settled_opened_at", incidents.c.settled, incidents.c.opened_at)

run_errors = Table(
    "run_errors",
    metadata,
    Column("error_id", Integer, primary_key=True),
    Column("run_id", ForeignKey(runs.c.run_id), nullable=False, index=True),
    Column("at", Instant, nullable=False),
    Column("chunk", String, nullable=False),
    Column("summary", String, nullable=False),
    Column("code", String, nullable=False),
    Column("vendor", String, nullable=False),
    Column("hint", String, nullable=False),
    Column("retryable", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("blame", String),  # "door" | "grant": of the connection; NULL: of none
)
Index("run_errors_by_at", run_errors.c.at)
