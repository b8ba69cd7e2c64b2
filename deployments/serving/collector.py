"""Python's garbage collector in a process that scores."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000


def keep_from_collections() -> None:
    """Makes the collector never again look at what is there now. Call once the process is set up; safe to repeat.

    What is loaded by then lives as long as the process: to go through all of it takes tens of milliseconds, in which nothing is
    answered.
    """
    if gc.get_freeze_count():
        return
    gc.collect()
    gc.freeze()


def spare_collections() -> None:
    """Makes the collector look seldom, and never at what is there now. Call once the process is set up; safe to repeat.

    A micro-batch, or the requests of a moment, are thousands of objects, none of which is in a cycle. By the interpreter's own
    thresholds the collector went through them many times a second: for a fifth of a stream worker's time, and a tenth of each
    request's in the gateway.
    """
    keep_from_collections()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
