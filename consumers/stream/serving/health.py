"""Whether a stream works, from what Serve says of its replicas and what its workers say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cluster.ports import AppState, AppStatus
from consumers.stream.counters import WorkerStatus
from consumers.stream.phases import WorkerPhase

_STATUS = {
    WorkerPhase.STARTING: AppStatus.STARTING,
    WorkerPhase.RUNNING: AppStatus.READY,
    WorkerPhase.CUT_OFF: AppStatus.UNHEALTHY,
    WorkerPhase.HOLDING: AppStatus.UNHEALTHY,
    WorkerPhase.RECOVERING: AppStatus.UNHEALTHY,
    WorkerPhase.DRAINING: AppStatus.STARTING,  # it starts over under another rank
    WorkerPhase.STOPPED: AppStatus.STARTING,
    WorkerPhase.FAILED: AppStatus.UNHEALTHY,  # Serve starts another
}
_WORST_FIRST = (AppStatus.UNHEALTHY, AppStatus.STARTING)
SILENT_S = 3.0
OPEN_S = 3.0  # producers that work in transactions leave one open all the time, each for some milliseconds


def stream_state(app: AppState, workers: Sequence[WorkerStatus], now_s: float) -> AppState:
    """READY only where Serve says so and every replica's worker polls its topic; else the worst worker's status and reason.

    `now_s` is Unix time.
    """
    if app.status is not AppStatus.READY:
        return app
    for status in _WORST_FIRST:
        for worker in workers:
            if _status(worker) is status:
                return replace(app, status=status, message=_reason(worker))
    if held := [(worker.rank, label, why) for worker in workers for label, why in worker.held.items()]:
        rank, label, why = held[0]
        more = f"; {len(held) - 1} more are held" if len(held) > 1 else ""
        return replace(app, status=AppStatus.UNHEALTHY, message=f"worker {rank} does not read partition {label}: {why}{more}")
    if len(workers) < max(app.replicas, 1):
        return replace(app, status=AppStatus.STARTING, message=f"{len(workers)} of {app.replicas} workers have reported")
    labels = next((f"labels are not taken: {worker.label_trouble}" for worker in workers if worker.label_trouble), "")
    explains = (worker.explain for worker in workers if worker.explain)
    why = next((f"explanations wait, {made.phase}: {made.message}" for made in explains if made.message), "")
    return replace(app, message=waits(workers, now_s) or labels or why or app.message)


def waits(workers: Sequence[WorkerStatus], now_s: float) -> str:
    """What workers wait for that others have left open; empty where it is no more than transactions take."""
    opened = [each for worker in workers for each in worker.open_transactions.values() if now_s - each.since_s > OPEN_S]
    if not opened:
        return ""
    since = datetime.fromtimestamp(min(each.since_s for each in opened), UTC)
    records = sum(each.records for each in opened)
    return f"waits for an open transaction since {since:%Y-%m-%d %H:%M:%S} UTC; {records} records are behind it"


def _status(worker: WorkerStatus) -> AppStatus:
    return AppStatus.UNHEALTHY if worker.age_s > SILENT_S else _STATUS[worker.phase]


def _reason(worker: WorkerStatus) -> str:
    if worker.age_s > SILENT_S:
        return f"worker {worker.rank} has not answered for {worker.age_s:.0f} s"
    return f"{worker.phase}: {worker.message}" if worker.message else worker.phase
