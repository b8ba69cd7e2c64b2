"""A tree over the audit, of which the edge is kept: whatever is in the audit already are its first leaves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cluster.audit.merkle import TreeHead

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    tree = op.create_table(
        "audit_tree",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("edge", sa.Text, nullable=False),
    )
    documents = op.get_bind().execute(sa.text("SELECT document FROM audit ORDER BY id")).scalars()
    head = TreeHead().adding(text.encode() for text in documents)
    op.bulk_insert(tree, [{"id": 1, "size": head.size, "edge": " ".join(node.hex() for node in head.edge)}])


def downgrade() -> None:
    op.drop_table("audit_tree")
