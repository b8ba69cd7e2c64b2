"""Whose fault it is that a row was not scored, and so whether it is evidence. Pure; the one place that says so.

- The row's: it is wrong in itself, and no version is to blame (BadInput).
- The moment's: no replica was free, or answered in time, or lived long enough (NoCapacity, Unreachable). A process can be killed,
  a node restarted, a queue be full: a call that is cut by that says nothing about the version. How often and how long its
  replicas are away is the fleet's to say (illness.py), and whether it goes on missing calls is judged apart (misses.py).
- The version's: it failed on input that met its signature (EngineFailure). Rows that kill replicas become this too, once
  they alone were seen to (deployments/scoring/suspects.py). What nobody has foreseen is taken for the version's: it is counted of
  stable alike, so that a fault of ours hits both.

Only the last is evidence for the checks.
"""

from __future__ import annotations

from enum import StrEnum

from cluster.errors import BadInput, NoCapacity, Unreachable


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
