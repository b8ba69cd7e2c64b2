"""Rollouts say which step they have reached: those of before learn it from their audit."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BEGUN = ("shadow", "canary")


def upgrade() -> None:
    connection = op.get_bind()
    events = [json.loads(text) for text in connection.execute(sa.text("SELECT document FROM audit")).scalars()]
    begun = {event["rollout"] for event in events if event["event"] in BEGUN}
    for key, text in connection.execute(sa.text("SELECT key, document FROM rollouts")).all():
        rollout = json.loads(text)
        if "reached" not in rollout and rollout["id"] in begun:
            changed = json.dumps({**rollout, "reached": rollout["step"] + 1})
            connection.execute(sa.text("UPDATE rollouts SET document = :text WHERE key = :key"), {"text": changed, "key": key})


def downgrade() -> None:
    """The older Headrace leaves out what it does not know."""
