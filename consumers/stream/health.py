"""Whether a stream works, from what Serve says of its replicas and what its workers say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.ports import AppState, AppStatus
from consumers.stream.counters import Phase, WorkerStatus

_STATUS = {
    Phase.STARTING: AppStatus.STARTING,
    Phase.RUNNING: AppStatus.READY,
    Phase.CUT_OFF: AppStatus.UNHEALTHY,
    Phase.HOLDING: AppStatus.UNHEALTHY,
    Phase.RECOVERING: AppStatus.UNHEALTHY,
    Phase.DRAINING: AppStatus.STARTING,  # it starts over under another rank
    Phase.STOPPED: AppStatus.STARTING,
    Phase.FAILED: AppStatus.UNHEALTHY,  # Serve starts another
}
_WORST_FIRST = (AppStatus.UNHEALTHY, AppStatus.STARTING)
SILENT_S = 3.0


def stream_state(app: AppState, workers: Sequence[WorkerStatus]) -> AppState:
    """READY only where Serve says so and every replica's worker polls its topic; else the worst worker's status and reason."""
    if app.status is not AppStatus.READY:
        return app
    for status in _WORST_FIRST:
        for worker in workers:
            if _status(worker) is status:
                return replace(app, status=status, message=_reason(worker))
    if len(workers) < max(app.replicas, 1):
        return replace(app, status=AppStatus.STARTING, message=f"{len(workers)} of {app.replicas} workers have reported")
    return app


def _status(worker: WorkerStatus) -> AppStatus:
    return AppStatus.UNHEALTHY if worker.age_s > SILENT_S else _STATUS[worker.phase]


def _reason(worker: WorkerStatus) -> str:
    if worker.age_s > SILENT_S:
        return f"worker {worker.rank} has not answered for {worker.age_s:.0f} s"
    return f"{worker.phase}: {worker.message}" if worker.message else worker.phase
