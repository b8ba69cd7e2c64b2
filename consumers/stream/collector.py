"""Python's garbage collector in a process that does nothing but work on a stream."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000


def spare_collections() -> None:
    """Makes the collector look seldom, and never again at what is there now. Call once the process is set up; safe to repeat.

    A micro-batch makes thousands of tuples, none of which is in a cycle. By the interpreter's own thresholds the collector went
    through them and through all of the imported modules many times a second, for a fifth of the worker's time.
    """
    if gc.get_freeze_count():
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
