"""Events that are of the audit alone, by name. What a command does has its own event: see the README."""

from __future__ import annotations

USED = "used"
LOOKED_AT = "rows looked at"
FIRST_USE = "first use"
CREDENTIAL_REFUSED = "credential refused"
COMMAND_REFUSED = "command refused"
GAP, GAP_CLOSED = "audit gap", "audit gap closed"
SIGNED_BY = "audit key"
CHECKPOINT_AWAY, CHECKPOINT_KEPT = "checkpoint not kept", "checkpoint kept again"

APART = frozenset(
    {USED, LOOKED_AT, CREDENTIAL_REFUSED, COMMAND_REFUSED, GAP, GAP_CLOSED, SIGNED_BY, CHECKPOINT_AWAY, CHECKPOINT_KEPT}
)
"""These are in no model's history, nor in that of keys: many come every minute."""
FAILURES = frozenset({"refused", COMMAND_REFUSED, CREDENTIAL_REFUSED, GAP, CHECKPOINT_AWAY})
"""What OCSF shows as a failure."""
