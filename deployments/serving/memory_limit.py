"""Ends this process where it holds more memory than it may, before the machine ends another one in its place."""

from __future__ import annotations

import logging
import os
import signal
import threading

import psutil

LOOK_EVERY_S = 0.25

_log = logging.getLogger(__name__)


def end_above(limit_bytes: int) -> None:
    """From now on this process is killed, as the kernel would, once its resident memory is above the limit.

    Ray's `memory` resource only places processes, and its own monitor waits until the whole node is full: then it ends what began
    last, which need not be what leaks.
    """
    threading.Thread(target=_watch, args=(limit_bytes,), name="memory-limit", daemon=True).start()


def _watch(limit_bytes: int) -> None:
    process, pause = psutil.Process(), threading.Event()
    while (held_bytes := process.memory_info().rss) <= limit_bytes:
        pause.wait(LOOK_EVERY_S)
    _log.error("this process holds %d bytes, above its limit of %d: it is ended", held_bytes, limit_bytes)
    os.kill(os.getpid(), signal.SIGKILL)
