"""Events that are of the audit alone, by name. What a command does has its own event: see the README."""

from __future__ import annotations

USED = "used"
FIRST_USE = "first use"
CREDENTIAL_REFUSED = "credential refused"
COMMAND_REFUSED = "command refused"
GAP, GAP_CLOSED = "audit gap", "audit gap closed"
SIGNED_BY = "audit key"

APART = frozenset({USED, CREDENTIAL_REFUSED, COMMAND_REFUSED, GAP, GAP_CLOSED, SIGNED_BY})
"""These are in no model's history, nor in that of keys: many come every minute."""
FAILURES = frozenset({"refused", COMMAND_REFUSED, CREDENTIAL_REFUSED, GAP})
"""What OCSF shows as a failure."""
