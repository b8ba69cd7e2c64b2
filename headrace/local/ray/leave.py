"""This node leaves its cluster without a failed call: Ray is told to drain it, and Serve first starts elsewhere what is here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.error_wire import from_wire
from cluster.errors import HeadraceError


@dataclass(frozen=True, slots=True)
class Left:
    """What became of it: how long it took, and the apps that still had a replica here when that was over."""

    seconds: float
    remaining: tuple[str, ...]


def leave(within_s: float, say: Callable[[str], None]) -> Left:
    """Returns once no replica of Serve is on this node any more, after `within_s` at the latest; Ray ends the node then.

    Raises what joining Ray raises, and Unreachable where Ray does not take it.
    """
    begun, remaining, known = time.monotonic(), None, False
    command = [sys.executable, "-m", "headrace.local.ray.drain_here", str(within_s)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        for line in process.stdout or ():
            told = _document(line)
            failed = from_wire(told.get("error"))
            if failed is not None:
                raise failed
            if "remaining" not in told:
                continue
            known = True
            if told["remaining"] and told["remaining"] != remaining:
                say(f"still here: {', '.join(told['remaining'])}")
            remaining = told["remaining"]
    took_s = time.monotonic() - begun
    if not known:
        raise HeadraceError(f"it ended with status {process.returncode}", where="headrace leave", remedy="look into Ray's logs")
    # Ray ends a node that has nothing left, and with it our process there, before that can say so.
    ended_by_ray = process.returncode != 0 and took_s < within_s
    return Left(took_s, () if ended_by_ray else tuple(remaining or ()))


def _document(line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}  # a word of Ray's own
    return told if isinstance(told, dict) else {}
