"""When a stream may call itself ready, and that asking its workers holds nobody up."""

from __future__ import annotations

import threading

import pytest

from cluster.ports import AppState, AppStatus
from consumers.stream import watch
from consumers.stream.counters import Phase, WorkerStatus
from consumers.stream.health import stream_state
from consumers.stream.watch import Watch

READY = AppState("stream--s", AppStatus.READY, 2, 2)


def worker(phase: Phase, message: str = "", rank: int = 0) -> WorkerStatus:
    return WorkerStatus(
        replica="r",
        rank=rank,
        pid=1,
        client="kafka-python",
        phase=phase,
        message=message,
        partitions=(0,),
        lag={0: 1},
        rows_in=1,
        rows_out=1,
        rows_dead=0,
        rows_s=1.0,
        in_flight_rows=0,
        in_flight_bytes=0,
        commits=1,
        commit_ms=1.0,
        recoveries=0,
        retries=0,
        breaker_open=False,
    )


RUNNING = worker(Phase.RUNNING)


def test_a_stream_is_ready_once_every_worker_polls() -> None:
    assert stream_state(READY, [RUNNING, RUNNING]) == READY
    one = stream_state(READY, [RUNNING])
    assert (one.status, one.message) == (AppStatus.STARTING, "1 of 2 workers have reported")
    assert stream_state(AppState("stream--s", AppStatus.READY, 0, 0), []).status is AppStatus.STARTING


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (Phase.STARTING, AppStatus.STARTING),
        (Phase.CUT_OFF, AppStatus.UNHEALTHY),
        (Phase.HOLDING, AppStatus.UNHEALTHY),
        (Phase.RECOVERING, AppStatus.UNHEALTHY),
        (Phase.FAILED, AppStatus.UNHEALTHY),
        (Phase.STOPPED, AppStatus.STARTING),
    ],
)
def test_one_worker_that_does_not_poll_gives_its_reason(phase: Phase, status: AppStatus) -> None:
    seen = stream_state(READY, [RUNNING, worker(phase, "the broker is away")])
    assert (seen.status, seen.message) == (status, f"{phase}: the broker is away")


def test_what_serve_says_comes_first() -> None:
    stopping = AppState("stream--s", AppStatus.STOPPING, 2, 2)
    assert stream_state(stopping, [RUNNING, RUNNING]) == stopping


def test_a_worker_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.0)
    asked, go_on = threading.Event(), threading.Event()

    def ask(app: str) -> tuple[WorkerStatus, ...]:
        asked.set()
        assert go_on.wait(20)
        if app == "mute":
            raise TimeoutError(app)
        return (RUNNING,)

    watching = Watch(ask)
    assert watching.workers(["mute", "s"]) == {}
    assert asked.wait(20)
    assert watching.workers(["mute", "s"]) == {}
    go_on.set()
    while not (seen := watching.workers(["mute", "s"])):
        pass
    assert seen == {"s": (RUNNING,)}
