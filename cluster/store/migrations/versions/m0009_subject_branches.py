"""The tree of data subjects' keys has branches, in a table of their own: more of them than a State could hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cluster.errors import Conflict

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # Keys that were made before have all of their tree in one document: the first to be erased then cuts it into branches, for
    # nobody can open it here.
    op.create_table(
        "subject_branches", sa.Column("key", sa.Text, primary_key=True), sa.Column("sealed", sa.LargeBinary, nullable=False)
    )


def downgrade() -> None:
    # The older Headrace can't open what was cut up, and without branches nobody ever could again.
    if op.get_bind().execute(sa.text("SELECT key FROM subject_branches LIMIT 1")).first() is not None:
        remedy = "stay with this Headrace, or restore a copy from before, and erase again whoever was erased since"
        raise Conflict("the keys of data subjects are in branches, which would be lost", where="store", remedy=remedy)
    op.drop_table("subject_branches")
