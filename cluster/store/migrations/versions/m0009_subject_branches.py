"""The tree of data subjects' keys has branches, in a table of their own: more of them than a State could hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # Keys that were made before have all of their tree in one document: the first to be erased then cuts it into branches, for
    # nobody can open it here.
    op.create_table(
        "subject_branches", sa.Column("key", sa.Text, primary_key=True), sa.Column("sealed", sa.LargeBinary, nullable=False)
    )


def downgrade() -> None:
    op.drop_table("subject_branches")
