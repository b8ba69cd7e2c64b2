"""A process that counts uses, to be killed: `python -m tests.support.telling_process batch|scorer [--ends]`.

What it tells the controller it writes to its output, a line each, and waits for a line that it is recorded; once it has counted
something that is not told yet it says so, and stays.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import signal
import sys
import threading
from typing import Any, cast

from cluster.access.callers import CLUSTER, Caller
from cluster.control_plane import Told
from cluster.errors import Unreachable
from cluster.routing.routes import EMPTY, RouteTable, Stamp

COUNTED = "counted"


class PipedControl:
    """The way to a controller in the process that began this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        await asyncio.sleep(timeout_s if after == EMPTY.stamp else 0)
        return EMPTY

    async def push(self, told: Told) -> None:
        await asyncio.to_thread(self._push, told)

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        raise Unreachable("only reports are taken here", where=command, remedy="ask the other process")

    def _push(self, told: Told) -> None:
        with self._lock:
            say(base64.b64encode(pickle.dumps(told)).decode())
            sys.stdin.readline()


def say(line: str) -> None:
    """A line for the process that began this one: whole, whichever threads have something to say."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_batch(*, ends: bool) -> None:
    """A run that scores a unit."""
    from consumers.batch.batch_meter import BatchMeter  # each kind of process imports what it needs
    from consumers.batch.run import RunProgress

    with BatchMeter(PipedControl(), "nightly", "digits", 1, remote=False, run="r1") as meter:
        for done in (0, 1):
            meter.count(
                RunProgress(units=2, units_done=done, rows=8, rows_done=4 * done, quarantined=0, rows_per_s=None, left_s=None)
            )
        counted(ends=ends)


async def run_scorer(*, ends: bool) -> None:
    """What gateways and stream workers have."""
    from deployments.observe.meters import Meters
    from deployments.scoring.scorer import RoutedScorer

    meters, nothing = Meters(), cast("Any", _Nothing())
    meters.uses.stays("gateway 7")
    scorer = RoutedScorer(PipedControl(), nothing, nothing, nothing, meters=meters, explainer=nothing)
    await scorer.start()
    meters.uses.add("key team", "digits", "1", "http", "ok", 4)
    await asyncio.to_thread(counted, ends=ends)
    await scorer.close()


class _Nothing:
    """Scores nothing."""

    async def close(self) -> None:
        return


def counted(*, ends: bool) -> None:
    """Says so, and stays where it is not to end."""
    say(COUNTED)
    if not ends:
        threading.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.argv[1] == "batch":
        run_batch(ends="--ends" in sys.argv)
    else:
        asyncio.run(run_scorer(ends="--ends" in sys.argv))
