"""The ledger's first tables: connections, checks, syncs, runs, chunks, errors of runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_instant = sa.DateTime(timezone=True)
_active = sa.text("state IN ('scheduled', 'running', 'retrying', 'paused')")


def upgrade() -> None:
    op.create_table(
        "connections",
        sa.Column("connection_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("sealed", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("checked_at", _instant),
        sa.Column("created_at", _instant, nullable=False),
        sa.Column("updated_at", _instant, nullable=False),
        sa.PrimaryKeyConstraint("connection_id", name="connections_pk"),
        sa.UniqueConstraint("name", name="connections_name_once"),
    )
    op.create_table(
        "checks",
        sa.Column("check_id", sa.Integer(), nullable=False),
        sa.Column("connection_id", sa.String(), nullable=False),
        sa.Column("at", _instant, nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.connection_id"], name="checks_connection_id_fk"),
        sa.PrimaryKeyConstraint("check_id", name="checks_pk"),
    )
    op.create_index("checks_by_connection_id", "checks", ["connection_id"], unique=False)
    op.create_table(
        "syncs",
        sa.Column("sync_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("connection_id", sa.String(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("schedule", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger()),
        sa.Column("fresh_at", _instant),
        sa.Column("events_since", _instant),
        sa.Column("connected_seq", sa.BigInteger()),
        sa.Column("created_at", _instant, nullable=False),
        sa.Column("updated_at", _instant, nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.connection_id"], name="syncs_connection_id_fk"),
        sa.PrimaryKeyConstraint("sync_id", name="syncs_pk"),
        sa.UniqueConstraint("name", name="syncs_name_once"),
    )
    op.create_index("syncs_by_connection_id", "syncs", ["connection_id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("sync_id", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("seqs_after", sa.BigInteger(), nullable=False),
        sa.Column("seqs_upto", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_at", _instant, nullable=False),
        sa.Column("planned_at", _instant, nullable=False),
        sa.Column("started_at", _instant),
        sa.Column("finished_at", _instant),
        sa.Column("rows_total", sa.BigInteger(), nullable=False),
        sa.Column("rows_done", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.sync_id"], name="runs_sync_id_fk"),
        sa.PrimaryKeyConstraint("run_id", name="runs_pk"),
    )
    op.create_index("one_active_run", "runs", ["sync_id"], unique=True, sqlite_where=_active, postgresql_where=_active)
    op.create_index("runs_by_sync_id_planned_at", "runs", ["sync_id", "planned_at"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("table_name", sa.String(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("seqs_after", sa.BigInteger(), nullable=False),
        sa.Column("seqs_upto", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("adds_only", sa.Boolean(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("replaces", sa.Boolean(), nullable=False),
        sa.Column("replaces_after", sa.BigInteger()),
        sa.Column("replaces_upto", sa.BigInteger()),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="chunks_run_id_fk"),
        sa.PrimaryKeyConstraint("run_id", "number", name="chunks_pk"),
        sa.UniqueConstraint("run_id", "batch_id", name="chunks_run_id_batch_id_once"),
    )
    op.create_table(
        "run_errors",
        sa.Column("error_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("at", _instant, nullable=False),
        sa.Column("chunk", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("vendor", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("retryable", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="run_errors_run_id_fk"),
        sa.PrimaryKeyConstraint("error_id", name="run_errors_pk"),
    )
    op.create_index("run_errors_by_run_id", "run_errors", ["run_id"], unique=False)
