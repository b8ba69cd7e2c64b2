"""Who told its uses, and who was first seen with which model; and the edge of the audit's records that were pruned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for name in ("tellers", "first_uses"):
        op.create_table(name, sa.Column("key", sa.Text, primary_key=True), sa.Column("document", sa.Text, nullable=False))
    op.execute("INSERT INTO audit_tree (id, size, edge) VALUES (2, 0, '')")


def downgrade() -> None:
    op.execute("DELETE FROM audit_tree WHERE id = 2")
    for name in ("first_uses", "tellers"):
        op.drop_table(name)
