"""A fence around a worker that reads files by foreign libraries: bounded memory and time, no network where that can be had."""

from __future__ import annotations

import ctypes
import os
import resource

MEMORY_BYTES = 16 * 2**30
CPU_S = 1800
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000


def enclose() -> None:
    """Fences in this process for good. Without a namespace of its own, which containers may forbid, the network stays."""
    for kind, wanted in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, hard))
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is not None and unshare(_NEW_NETWORK if os.geteuid() == 0 else _NEW_USER | _NEW_NETWORK):
        print("the network stays: no namespace of its own could be had", flush=True)  # noqa: T201  this is the build's log
