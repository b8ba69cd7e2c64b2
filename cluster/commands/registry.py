"""Every command, by its name on the wire: what the dispatcher runs, the client asks, and the documentation tells.

The same names serve the command line, `POST /control/{command}` and the controller actor's `call`.
"""

from __future__ import annotations

from typing import Any

from cluster.commands import audit, documents, feeds, keys, labels, models, rollouts, status, versions
from cluster.commands.batches import runs
from cluster.commands.command import CommandEntry
from cluster.commands.privacy import subjects
from cluster.commands.streams import moves
from cluster.commands.watch import audit_search, by_hand, drift, glance, history, metrics, quality, whole_audit

_WATCH = (metrics, history, drift, quality, glance, whole_audit, audit_search, by_hand)
_NOUNS = (status, documents, versions, models, rollouts, audit, labels, feeds, runs, keys, subjects, moves, *_WATCH)
COMMANDS: dict[str, CommandEntry[Any, Any]] = {entry.name: entry for noun in _NOUNS for entry in noun.COMMANDS}
