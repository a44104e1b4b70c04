"""Imports: what they bring in, and what became of the rows of their runs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("syncs", sa.Column("intake", sa.JSON(none_as_null=True)))
    op.add_column("runs", sa.Column("counts", sa.JSON(none_as_null=True)))
