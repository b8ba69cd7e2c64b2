"""What `headrace stream status` shows a person of each worker."""

from __future__ import annotations

import httpx
import pytest

from cluster.commands.feeds import FeedView
from consumers.stream.phases import WorkerPhase
from headrace.cli.main import main
from headrace.client import ControlClient
from tests.unit.stream.test_stream_health import worker


def test_each_worker_is_shown_with_its_troubles_and_the_age_of_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = worker(WorkerPhase.RUNNING, age_s=7.4).model_copy(update={"retries": 31, "recoveries": 42})
    stream = FeedView(
        kind="stream",
        name="s",
        model="m",
        wanted="running",
        status="unhealthy",
        replicas=1,
        message="worker 0 has not answered for 7 s",
        spec={"input": {"topic": "i"}},
        workers=(silent.model_dump(mode="json"),),
    )
    gateway = httpx.MockTransport(lambda _: httpx.Response(200, json=stream.model_dump(mode="json")))
    monkeypatch.delenv("COLUMNS", raising=False)  # as a pipe has it
    monkeypatch.setattr(ControlClient, "from_environment", lambda: ControlClient("http://gateway", transport=gateway))
    assert main(["stream", "status", "s"]) == 0
    shown = capsys.readouterr().out
    assert "message: worker 0 has not answered for 7 s" in shown
    table = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if "│" in line]
    heads = next([cell.strip() for cell in line.split("┃")] for line in shown.splitlines() if "recoveries" in line)
    row = dict(zip(heads, table[-1], strict=True))
    assert {name: row[name] for name in ("retries", "recoveries", "age")} == {"retries": "31", "recoveries": "42", "age": "7 s"}
