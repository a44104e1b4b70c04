"""Lanes, workers and incidents; schedules on syncs; retries, sizes and times on runs and chunks."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("connections", sa.Column("concurrency", sa.Integer()))
    op.add_column("syncs", sa.Column("next_due", _instant))
    op.add_column("syncs", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("syncs", sa.Column("paused_because", sa.String()))
    op.add_column("syncs", sa.Column("freshness_limit_s", sa.BigInteger()))
    op.add_column("runs", sa.Column("planned", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("runs", sa.Column("scheduled_at", _instant))
    op.add_column("runs", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("retry_at", _instant))
    op.add_column("runs", sa.Column("bytes_done", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("closing", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE runs SET scheduled_at = planned_at")
    op.create_index("runs_by_planned_at", "runs", ["planned_at"], unique=False)
    op.add_column("chunks", sa.Column("lane", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("chunks", sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("chunks", sa.Column("begun_at", _instant))
    op.add_column("chunks", sa.Column("done_at", _instant))
    op.add_column("run_errors", sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("run_errors_by_at", "run_errors", ["at"], unique=False)
    op.create_table(
        "lanes",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("lane", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("worker_id", sa.String()),
        sa.Column("due_at", _instant),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="lanes_run_id_fk"),
        sa.PrimaryKeyConstraint("run_id", "lane", name="lanes_pk"),
    )
    busy = sa.text("state <> 'idle'")
    op.create_index(
        "lanes_at_work", "lanes", ["state", "worker_id"], unique=False, sqlite_where=busy, postgresql_where=busy
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("started_at", _instant, nullable=False),
        sa.Column("seen_at", _instant, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="workers_pk"),
    )
    op.create_table(
        "incidents",
        sa.Column("incident_id", sa.String(), nullable=False),
        sa.Column("sync_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("opened_at", _instant, nullable=False),
        sa.Column("cleared_at", _instant),
        sa.Column("told", sa.JSON(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.sync_id"], name="incidents_sync_id_fk"),
        sa.PrimaryKeyConstraint("incident_id", name="incidents_pk"),
    )
    is_open = sa.text("cleared_at IS NULL")
    op.create_index(
        "one_open_incident",
        "incidents",
        ["sync_id", "kind"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("incidents_by_settled_opened_at", "incidents", ["settled", "opened_at"], unique=False)
    # Runs that were under way when the tables came: each goes on in one lane.
    op.execute(
        "INSERT INTO lanes (run_id, lane, attempt, state, deaths) "
        "SELECT run_id, 0, 1, 'queued', 0 FROM runs WHERE state IN ('scheduled', 'running', 'retrying')"
    )
    op.execute(
        "INSERT INTO lanes (run_id, lane, attempt, state, deaths) "
        "SELECT run_id, 0, 1, 'idle', 0 FROM runs WHERE state IN ('paused', 'failed')"
    )
