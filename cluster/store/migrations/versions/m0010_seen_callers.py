"""Who has used which model has a table of its own, by when it was last: none is forgotten before its time."""

from __future__ import annotations

import json
import time

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    made = op.create_table(
        "seen_callers",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("last_s", sa.Double, nullable=False),
    )
    op.create_index("seen_callers_last", "seen_callers", ["last_s"])
    # When each was there last was not kept: from now on it is.
    known = [json.loads(text) for text in op.get_bind().execute(sa.text("SELECT document FROM first_uses")).scalars()]
    if known:
        now_s = time.time()
        op.bulk_insert(made, [{"model": one["model"], "principal": one["principal"], "last_s": now_s} for one in known])
    op.drop_table("first_uses")


def downgrade() -> None:
    made = op.create_table(
        "first_uses", sa.Column("key", sa.Text, primary_key=True), sa.Column("document", sa.Text, nullable=False)
    )
    known = op.get_bind().execute(sa.text("SELECT model, principal, last_s FROM seen_callers")).all()
    if known:
        rows = [
            {"key": f"{model}/{principal}", "document": json.dumps({"principal": principal, "model": model, "at_s": last_s})}
            for model, principal, last_s in known
        ]
        op.bulk_insert(made, rows)
    op.drop_table("seen_callers")
