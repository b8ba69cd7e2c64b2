"""What `headrace stream status` shows a person of each worker."""

from __future__ import annotations

import json

import httpx
import pytest

from cluster.commands.feeds import FeedView
from consumers.stream.counters import ExplainStatus, WorkerStatus
from consumers.stream.phases import WorkerPhase
from headrace.cli.main import main
from headrace.client import ControlClient
from tests.unit.stream.test_stream_health import worker


def shown_of(
    status: WorkerStatus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str, message: str = ""
) -> str:
    """What `headrace stream status s` prints of a stream with this one worker."""
    stream = FeedView(
        kind="stream",
        name="s",
        model="m",
        wanted="running",
        status="unhealthy",
        replicas=1,
        message=message,
        spec={"input": {"topic": "i"}},
        workers=(status.model_dump(mode="json"),),
    )
    gateway = httpx.MockTransport(lambda _: httpx.Response(200, json=stream.model_dump(mode="json")))
    monkeypatch.delenv("COLUMNS", raising=False)  # as a pipe has it
    monkeypatch.setattr(ControlClient, "from_environment", lambda: ControlClient("http://gateway", transport=gateway))
    assert main(["stream", "status", "s", *options]) == 0
    return capsys.readouterr().out


def test_each_worker_is_shown_with_its_troubles_and_the_age_of_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = worker(WorkerPhase.RUNNING, age_s=7.4).model_copy(update={"retries": 31, "recoveries": 42})
    shown = shown_of(silent, monkeypatch, capsys, message="worker 0 has not answered for 7 s")
    assert "message: worker 0 has not answered for 7 s" in shown
    table = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if "│" in line]
    heads = next([cell.strip() for cell in line.split("┃")] for line in shown.splitlines() if "recoveries" in line)
    row = dict(zip(heads, table[-1], strict=True))
    assert {name: row[name] for name in ("retries", "recoveries", "age")} == {"retries": "31", "recoveries": "42", "age": "7 s"}


def test_how_far_explanations_have_fallen_behind_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ExplainStatus(phase=WorkerPhase.HOLDING, message="busy", lag={0: 1000, 3: 234}, rows_in=50, rows_out=4, rows_s=2.0)
    explaining = worker(WorkerPhase.RUNNING).model_copy(update={"explain": made})
    told = "explanations of worker 0: holding: busy, lag 1234, 2 rows/s, 4 of 50 records explained"
    assert told in shown_of(explaining, monkeypatch, capsys)
    assert "explanations" not in shown_of(worker(WorkerPhase.RUNNING), monkeypatch, capsys)
    printed = json.loads(shown_of(explaining, monkeypatch, capsys, "--json"))
    assert printed["workers"][0]["explain"]["lag"] == {"0": 1000, "3": 234}
