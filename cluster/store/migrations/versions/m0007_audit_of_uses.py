"""Who told its uses, and who was first seen with which model; the number of each record of the audit, by which it is found;
and the edge of those that were pruned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for name in ("tellers", "first_uses"):
        op.create_table(name, sa.Column("key", sa.Text, primary_key=True), sa.Column("document", sa.Text, nullable=False))
    op.execute("INSERT INTO audit_tree (id, size, edge) VALUES (2, 0, '')")
    op.add_column("audit", sa.Column("number", sa.BigInteger))
    op.execute(
        "UPDATE audit SET number = counted.number FROM"
        " (SELECT id, ROW_NUMBER() OVER (ORDER BY id) - 1 AS number FROM audit) AS counted WHERE counted.id = audit.id"
    )
    op.create_index("audit_number", "audit", ["number"], unique=True)


def downgrade() -> None:
    op.drop_index("audit_number", "audit")
    op.drop_column("audit", "number")
    op.execute("DELETE FROM audit_tree WHERE id = 2")
    for name in ("first_uses", "tellers"):
        op.drop_table(name)
