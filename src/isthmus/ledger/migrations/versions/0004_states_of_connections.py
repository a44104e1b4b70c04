"""States of connections with their reasons, nightly checks, and incidents that are about a connection."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("connections", sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("connections", sa.Column("state_since", _instant))
    op.add_column("connections", sa.Column("finding", sa.JSON(none_as_null=True)))
    op.add_column("connections", sa.Column("next_try_at", _instant))
    op.add_column("connections", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("connections", sa.Column("nightly", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("connections", sa.Column("nightly_at", _instant))
    op.add_column("checks", sa.Column("asked", sa.String(), nullable=False, server_default="person"))
    op.add_column("run_errors", sa.Column("blame", sa.String()))
    if op.get_bind().dialect.name == "sqlite":
        _make_incidents_anew()
    else:
        op.alter_column("incidents", "sync_id", nullable=True)
        op.add_column("incidents", sa.Column("connection_id", sa.String()))
        op.create_foreign_key(
            "incidents_connection_id_fk", "incidents", "connections", ["connection_id"], ["connection_id"]
        )
    is_open = sa.text("cleared_at IS NULL")
    op.create_index(
        "one_open_incident_of_a_connection",
        "incidents",
        ["connection_id", "kind"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def _make_incidents_anew() -> None:
    """SQLite cannot let an existing column be empty."""
    op.rename_table("incidents", "incidents_before")
    op.create_table(
        "incidents",
        sa.Column("incident_id", sa.String(), nullable=False),
        sa.Column("sync_id", sa.String()),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("opened_at", _instant, nullable=False),
        sa.Column("cleared_at", _instant),
        sa.Column("told", sa.JSON(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("connection_id", sa.String()),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.sync_id"], name="incidents_sync_id_fk"),
        sa.ForeignKeyConstraint(["connection_id"], ["connections.connection_id"], name="incidents_connection_id_fk"),
        sa.PrimaryKeyConstraint("incident_id", name="incidents_pk"),
    )
    kept = "incident_id, sync_id, kind, summary, details, opened_at, cleared_at, told, settled"
    op.execute(f"INSERT INTO incidents ({kept}) SELECT {kept} FROM incidents_before")
    op.drop_table("incidents_before")  # with its indexes
    is_open = sa.text("cleared_at IS NULL")
    op.create_index("one_open_incident", "incidents", ["sync_id", "kind"], unique=True, sqlite_where=is_open)
    op.create_index("incidents_by_settled_opened_at", "incidents", ["settled", "opened_at"], unique=False)
