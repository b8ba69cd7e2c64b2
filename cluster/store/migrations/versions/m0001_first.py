"""The first schema: a table a kind of record, the audit, and the fence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

RECORDS = ("versions", "models", "rollouts", "feeds", "evidence", "scorers", "control")


def upgrade() -> None:
    for table in RECORDS:
        op.create_table(table, sa.Column("key", sa.Text, primary_key=True), sa.Column("document", sa.Text, nullable=False))
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("model", sa.Text, nullable=False, index=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table("fence", sa.Column("id", sa.Integer, primary_key=True), sa.Column("number", sa.BigInteger, nullable=False))
    op.execute("INSERT INTO fence (id, number) VALUES (1, 0)")


def downgrade() -> None:
    for table in (*RECORDS, "audit", "fence"):
        op.drop_table(table)
