"""The keys of data subjects, sealed, have a table of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table("subjects", sa.Column("key", sa.Text, primary_key=True), sa.Column("document", sa.Text, nullable=False))


def downgrade() -> None:
    op.drop_table("subjects")
