"""A stream that is moved or drained runs again where it ran, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cluster.commands.feeds import FeedName, FeedView
from cluster.errors import Conflict, HeadraceError, Unreachable
from consumers.stream.kafka.offsets import OffsetRanges
from consumers.stream.phases import WorkerPhase
from consumers.stream.replay.run import Replayed
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic
from headrace.cli import stream_moves as moves
from headrace.cli.main import main
from headrace.client import ControlClient
from headrace.local.home import read_settings
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.unit.stream.test_stream_health import worker

NAME = FeedName(kind="stream", name="s")
SPEC = StreamSpec(
    model="m", brokers="b:1", input=StreamInput(topic="i"), output=StreamOutput(topic="o"), dead_letters=Topic(topic="d")
).model_dump(mode="json")


@dataclass
class Gateway(ControlClient):
    """One stream, in memory. `stops`: whether a pause ever comes to its end; `resumes` may raise."""

    wanted: Literal["running", "paused"] = "running"
    stops: bool = True
    resumes: Callable[[], None] = lambda: None
    asked: list[str] = field(default_factory=list)
    lag: int = 0

    def feed(self, name: FeedName) -> FeedView:
        gone = self.wanted == "paused" and self.stops
        workers = () if gone else (worker(WorkerPhase.RUNNING).model_copy(update={"lag": {0: self.lag}}).model_dump(mode="json"),)
        return FeedView(
            kind=name.kind,
            name=name.name,
            model="m",
            wanted=self.wanted,
            status="stopped" if gone else "ready",
            replicas=len(workers),
            message="",
            spec=SPEC,
            workers=workers,
        )

    def pause_feed(self, name: FeedName) -> FeedView:
        self.asked.append("pause")
        self.wanted = "paused"
        return self.feed(name)

    def resume_feed(self, name: FeedName) -> FeedView:
        self.asked.append("resume")
        self.resumes()
        self.wanted = "running"
        return self.feed(name)


@pytest.fixture(autouse=True)
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The groups that were set; the broker holds nothing."""
    done: list[str] = []
    monkeypatch.setattr(moves, "offset_ranges", lambda *_, **__: OffsetRanges({}, {}))
    monkeypatch.setattr(moves, "set_group", lambda group, *_, **__: done.append(group))
    monkeypatch.setattr(moves, "LOOK_EVERY_S", 0.01)
    return done


def seek(gateway: Gateway, folder: Path, timeout_s: float = 10.0) -> FeedView:
    return moves.seek(gateway, NAME, "latest", read_settings({"HEADRACE_HOME": str(folder)}), timeout_s=timeout_s)


@pytest.mark.parametrize("wanted", ["running", "paused"])
def test_a_stream_that_was_moved_is_as_it_was(wanted: Literal["running", "paused"], tmp_path: Path, moved: list[str]) -> None:
    assert seek(Gateway(wanted=wanted), tmp_path).wanted == wanted
    assert moved == ["headrace-s"]


@pytest.mark.parametrize("failure", [Conflict("in use by a@h"), Unreachable("away"), KeyboardInterrupt(), ValueError("a fault")])
@pytest.mark.parametrize("wanted", ["running", "paused"])
def test_whatever_fails_it_runs_again_where_it_ran(
    failure: BaseException, wanted: Literal["running", "paused"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(moves, "set_group", refuse)
    gateway = Gateway(wanted=wanted)
    with pytest.raises(type(failure)) as failed:
        seek(gateway, tmp_path)
    assert failed.value is failure
    assert gateway.wanted == wanted


def test_a_stream_that_does_not_stop_in_time_is_told_and_runs_on(tmp_path: Path, moved: list[str]) -> None:
    gateway = Gateway(stops=False)
    with pytest.raises(Conflict, match="did not stop in time, still ready"):
        seek(gateway, tmp_path, timeout_s=0.05)
    assert (gateway.asked, moved) == (["pause", "resume"], [])


def test_one_that_cant_be_resumed_is_told_with_both_reasons(tmp_path: Path) -> None:
    def away() -> None:
        raise Unreachable("the gateway does not answer")

    with pytest.raises(HeadraceError) as failed:
        seek(Gateway(stops=False, resumes=away), tmp_path, timeout_s=0.0)
    assert "left paused" in failed.value.what
    assert "the gateway does not answer" in failed.value.what
    assert "did not stop in time" in failed.value.what
    assert failed.value.remedy == "`headrace stream resume s`"


def test_each_step_gets_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def note(*_: Any, timeout_s: float, **__: Any) -> OffsetRanges:
        given.append(timeout_s)
        return OffsetRanges({}, {})

    monkeypatch.setattr(moves, "offset_ranges", note)
    monkeypatch.setattr(moves, "set_group", note)
    seek(Gateway(), tmp_path, timeout_s=7.0)
    assert 7.0 >= given[0] >= given[1] > 0


def test_a_drained_stream_stops_and_one_that_does_not_end_runs_on() -> None:
    assert moves.drain(Gateway(), NAME, timeout_s=10).status == "stopped"
    stuck = Gateway(stops=False)
    with pytest.raises(Conflict, match="did not stop in time"):
        moves.drain(stuck, NAME, timeout_s=0.05)
    assert stuck.asked == ["pause", "resume"]
    busy = Gateway(lag=3)
    with pytest.raises(Conflict, match="3 records wait"):
        moves.drain(busy, NAME, timeout_s=0.05)
    assert busy.asked == []


def test_a_replay_stands_in_the_audit_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = Brain()
    brain.build(1)
    brain.call("apply", models=[{"name": "digits", "rollout": {}, "serving": {}}])
    brain.call("apply", feeds=[{"kind": "stream", "name": "s", "model": "digits", "spec": SPEC}])
    ask_brain(brain, monkeypatch)
    audit: list[tuple[str, str, Any]] = []

    def replayed(*_: Any) -> Replayed:
        audit.extend((event.event, event.actor, event.detail["which"]) for event in brain.store.audit("digits")[-1:])
        return Replayed(1, 0, 0)

    monkeypatch.setattr(moves, "replay", replayed)
    assert main(["stream", "replay", "s", "--dead-letters", "--where", "stage=TASK_PUT"]) == 0
    assert main(["stream", "replay", "s", "--from", "2026-11-30T08:00:00"]) == 0
    assert audit == [
        ("stream.replay", "ann", "dead letters stage=TASK_PUT"),
        ("stream.replay", "ann", "the input from 2026-11-30T08:00:00 to now"),
    ]
