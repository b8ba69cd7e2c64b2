"""Whose fault it is that a row was not scored, or that a version did not start, and so whether it is evidence. Pure; the one
place that says so. Of rows:

- The row's: it is wrong in itself, and no version is to blame (BadInput).
- The moment's: no replica was free, or answered in time, or lived long enough (NoCapacity, Unreachable). A process can be killed,
  a node restarted, a queue be full: a call that is cut by that says nothing about the version. How often and how long its
  replicas are away is the fleet's to say (illness.py), and whether it goes on missing calls is judged apart (misses.py).
- The version's: it failed on input that met its signature (EngineFailure). Rows that kill replicas become this too, once
  they alone were seen to (deployments/scoring/suspects.py). What nobody has foreseen is taken for the version's: it is counted of
  stable alike, so that a fault of ours hits both.

Only the last is evidence for the checks.

A version that did not start for a TRANSIENT failure lacked what is not its own: its files, a key or a right can't be had now, or
there is no room. It may start at the next try, and its rollout waits (fleet/waiting.py). All else is the version's: it is
damaged, malformed, refused by the signing policy, or its engine does not take it.
"""

from __future__ import annotations

from enum import StrEnum

from cluster.errors import BadInput, Forbidden, HeadraceError, NoCapacity, NotFound, Unauthenticated, Unreachable

# A registry says NotFound of what it does not show to who asks.
TRANSIENT: tuple[type[HeadraceError], ...] = (Unreachable, NoCapacity, Unauthenticated, Forbidden, NotFound)


class Blame(StrEnum):
    """Whose fault a failure is."""

    ROW = "row"
    MOMENT = "moment"
    VERSION = "version"


def blame(failure: BaseException) -> Blame:
    """Whose fault it is."""
    match failure:
        case BadInput():
            return Blame.ROW
        case NoCapacity() | Unreachable():
            return Blame.MOMENT
        case _:
            return Blame.VERSION
