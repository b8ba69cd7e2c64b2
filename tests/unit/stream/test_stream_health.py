"""When a stream may call itself ready, and that asking its workers holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cluster.ports import AppState, AppStatus
from consumers.stream.counters import ExplainStatus, OpenTransaction, WorkerStatus
from consumers.stream.phases import WorkerPhase
from consumers.stream.serving import worker_reports
from consumers.stream.serving.health import stream_state
from consumers.stream.serving.worker_reports import Replicas, WorkerReports
from tests.support.clock import Clock
from tests.support.waiting import until

READY = AppState("stream--s", AppStatus.READY, 2, 2)
NOW_S = 1_800_000_000.0


def worker(phase: WorkerPhase, message: str = "", rank: int = 0, age_s: float = 0.0, replica: str = "r") -> WorkerStatus:
    return WorkerStatus(
        replica=replica,
        age_s=age_s,
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


RUNNING = worker(WorkerPhase.RUNNING)


def test_a_stream_is_ready_once_every_worker_polls() -> None:
    assert stream_state(READY, [RUNNING, RUNNING], NOW_S) == READY
    one = stream_state(READY, [RUNNING], NOW_S)
    assert (one.status, one.message) == (AppStatus.STARTING, "1 of 2 workers have reported")
    assert stream_state(AppState("stream--s", AppStatus.READY, 0, 0), [], NOW_S).status is AppStatus.STARTING


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (WorkerPhase.STARTING, AppStatus.STARTING),
        (WorkerPhase.CUT_OFF, AppStatus.UNHEALTHY),
        (WorkerPhase.HOLDING, AppStatus.UNHEALTHY),
        (WorkerPhase.RECOVERING, AppStatus.UNHEALTHY),
        (WorkerPhase.FAILED, AppStatus.UNHEALTHY),
        (WorkerPhase.STOPPED, AppStatus.STARTING),
    ],
)
def test_one_worker_that_does_not_poll_gives_its_reason(phase: WorkerPhase, status: AppStatus) -> None:
    seen = stream_state(READY, [RUNNING, worker(phase, "the broker is away")], NOW_S)
    assert (seen.status, seen.message) == (status, f"{phase}: the broker is away")


def test_what_serve_says_comes_first() -> None:
    stopping = AppState("stream--s", AppStatus.STOPPING, 2, 2)
    assert stream_state(stopping, [RUNNING, RUNNING], NOW_S) == stopping


def test_a_partition_that_is_held_makes_the_stream_ill() -> None:
    held = RUNNING.model_copy(update={"held": {3: "the group's commit of it is gone"}})
    seen = stream_state(READY, [RUNNING, held], NOW_S)
    assert (seen.status, seen.message) == (
        AppStatus.UNHEALTHY,
        "worker 0 does not read partition 3: the group's commit of it is gone",
    )


def test_an_open_transaction_is_told_once_it_is_older_than_transactions_are() -> None:
    def opened(ago_s: float) -> WorkerStatus:
        return RUNNING.model_copy(update={"open_transactions": {0: OpenTransaction(since_s=NOW_S - ago_s, records=7)}})

    assert stream_state(READY, [RUNNING, opened(1.0)], NOW_S) == READY
    seen = stream_state(READY, [RUNNING, opened(60.0)], NOW_S)
    assert (seen.status, seen.message) == (
        AppStatus.READY,
        "waits for an open transaction since 2027-01-15 07:59:00 UTC; 7 records are behind it",
    )


def test_one_that_does_not_answer_is_not_taken_for_what_it_last_said() -> None:
    assert stream_state(READY, [RUNNING, worker(WorkerPhase.RUNNING, age_s=3.0)], NOW_S) == READY
    seen = stream_state(READY, [RUNNING, worker(WorkerPhase.RUNNING, rank=1, age_s=7.2)], NOW_S)
    assert (seen.status, seen.message) == (AppStatus.UNHEALTHY, "worker 1 has not answered for 7 s")
    starting = stream_state(
        READY, [worker(WorkerPhase.STARTING), worker(WorkerPhase.STARTING, "joining", rank=1, age_s=7.2)], NOW_S
    )
    assert (starting.status, starting.message) == (AppStatus.UNHEALTHY, "worker 1 has not answered for 7 s")


@dataclass
class Workers:
    """Answers for replicas by app, once it may."""

    replicas: dict[str, list[str]]
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def __call__(self, app: str, tell: Callable[[WorkerStatus], None]) -> None:
        self.asked.append(app)
        assert self.go_on.wait(20)
        for replica in self.replicas[app]:
            tell(worker(WorkerPhase.RUNNING, replica=replica))
        if app == "mute":
            raise TimeoutError(app)


def ages(watching: WorkerReports, running: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    return {app: {each.replica: each.age_s for each in found} for app, found in watching.workers(running).items()}


def test_a_worker_that_does_not_answer_holds_nobody_up() -> None:
    workers, clock = Workers({"mute": [], "s": ["a"]}), Clock(100.0)
    watching, running = WorkerReports(workers, clock), {"mute": ["m"], "s": ["a"]}
    assert ages(watching, running) == {"mute": {}, "s": {}}
    until(lambda: sorted(workers.asked) == ["mute", "s"], 20)
    clock.now_s += 5
    assert ages(watching, running) == {"mute": {}, "s": {}}
    assert sorted(workers.asked) == ["mute", "s"]  # not again while the last round is under way
    workers.go_on.set()
    until(lambda: ages(watching, running) == {"mute": {}, "s": {"a": 0.0}}, 20)


def test_what_a_worker_last_said_grows_old_while_it_is_silent() -> None:
    workers, clock = Workers({"s": ["a", "b"]}), Clock(100.0)
    workers.go_on.set()
    watching, running = WorkerReports(workers, clock), {"s": ["a", "b"]}
    until(lambda: ages(watching, running)["s"] == {"a": 0.0, "b": 0.0}, 20)
    workers.replicas["s"] = ["a"]
    clock.now_s += 4.5
    until(lambda: ages(watching, running)["s"] == {"a": 0.0, "b": 4.5}, 20)


def test_what_runs_no_more_is_told_no_more() -> None:
    workers, clock = Workers({"s": ["a"], "t": ["x"]}), Clock(100.0)
    workers.go_on.set()
    watching = WorkerReports(workers, clock)
    until(lambda: ages(watching, {"s": ["a"], "t": ["x"]}) == {"s": {"a": 0.0}, "t": {"x": 0.0}}, 20)
    assert ages(watching, {"s": ["new"]}) == {"s": {}}  # another document began, under the same name
    asked = len(workers.asked)
    clock.now_s += 5
    assert ages(watching, {"s": [], "t": []}) == {"s": {}, "t": {}}
    assert len(workers.asked) == asked  # where nothing runs, nobody is asked


def test_who_takes_no_labels_serves_on_and_says_so() -> None:
    troubled = RUNNING.model_copy(update={"label_trouble": "topic truth: there is no such topic"})
    seen = stream_state(READY, [troubled, RUNNING], NOW_S)
    assert (seen.status, seen.message) == (AppStatus.READY, "labels are not taken: topic truth: there is no such topic")


def test_explanations_that_are_not_made_are_told_while_the_stream_serves_on() -> None:
    made = ExplainStatus(phase=WorkerPhase.HOLDING, message="no replica has time")
    seen = stream_state(READY, [RUNNING.model_copy(update={"explain": made}), RUNNING], NOW_S)
    assert (seen.status, seen.message) == (AppStatus.READY, "explanations wait, holding: no replica has time")
    well = RUNNING.model_copy(update={"explain": ExplainStatus(phase=WorkerPhase.RUNNING)})
    assert stream_state(READY, [well, RUNNING], NOW_S) == READY


def test_a_worker_of_another_release_silences_none_of_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    newer = RUNNING.model_dump(mode="json") | {"mood": "good"}
    monkeypatch.setattr(worker_reports, "each_answer", lambda *_, **__: iter([newer, RUNNING.model_dump(mode="json")]))
    monkeypatch.setattr(worker_reports.serve, "get_deployment_handle", lambda *_, **__: None)
    ask, told = Replicas("consumer"), list[WorkerStatus]()
    for _ in range(2):
        ask("s", told.append)
    assert [said.replica for said in told] == [RUNNING.replica] * 2
    assert caplog.text.count("answers in other words than are known here") == 1


def test_a_round_that_fails_by_a_fault_of_ours_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def ask(app: str, tell: object) -> None:
        raise ZeroDivisionError

    watching = WorkerReports(ask)
    assert ages(watching, {"s": ["a"]}) == {"s": {}}
    until(lambda: "s was not asked how it is doing" in caplog.text, 20)
