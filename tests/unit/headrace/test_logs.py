"""Whose log a file is, and which of them are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import headrace.cli.watch.logs as cli
from cluster.errors import Unreachable
from headrace.cli.main import main
from headrace.local.home import read_settings
from headrace.local.logs.reading import LogReader
from headrace.local.logs.sources import LogFilter, LogKind, LogSource, source_of, sources_of
from headrace.local.ray.dashboard import DashboardAsker

FILES = {
    "n1": [
        "serve/replica_digits--v3_replicas_ab12.log",
        "serve/replica_my_model.v2--v12_replicas_cd34.log",
        "serve/replica_stream--scores_consumer_ef56.log",
        "serve/controller_123.log",
    ],
    "n2": ["serve/replica_gateway_Gateway_gh78.log", "serve/proxy_127.0.0.1.log", "serve/replica_digits--v2_replicas_ij90.log"],
}


def test_files_are_told_by_their_names() -> None:
    assert [(one.label, one.node) for one in sources_of(FILES)] == [
        ("digits version 3 ab12", "n1"),
        ("my_model.v2 version 12 cd34", "n1"),
        ("stream scores ef56", "n1"),
        ("digits version 2 ij90", "n2"),
        ("gateway gh78", "n2"),
    ]
    assert source_of("serve/replica_foreign_Ingress_zz.log", "n1") is None


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        (LogFilter(gateway=True), ["gateway gh78"]),
        (LogFilter(model="digits"), ["digits version 3 ab12", "digits version 2 ij90"]),
        (LogFilter(model="digits", version=2), ["digits version 2 ij90"]),
        (LogFilter(model="digits", version=2, its_streams=frozenset({"scores"})), ["digits version 2 ij90"]),
        (LogFilter(model="digits", its_streams=frozenset({"scores"}), gateway=True), None),
        (LogFilter(stream="scores"), ["stream scores ef56"]),
        (LogFilter(model="digit"), []),
    ],
)
def test_only_what_is_asked_for_is_shown(wanted: LogFilter, labels: list[str] | None) -> None:
    found = [one.label for one in sources_of(FILES) if wanted.wants(one)]
    assert found == (labels if labels is not None else [one.label for one in sources_of(FILES) if "my_model" not in one.name])


class Answers(httpx.BaseTransport):
    """Ray's dashboard, as it answers."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = dict(request.url.params)
        match request.url.path:
            case "/api/v0/nodes":
                rows = [{"node_id": "n1", "state": "ALIVE"}, {"node_id": "n0", "state": "DEAD"}]
                return self._json({"result": rows})
            case "/api/v0/actors":
                row = {"name": "headrace-controller", "state": "ALIVE", "actor_id": "a1", "node_id": "n1"}
                return self._json({"result": [row, row | {"state": "DEAD", "actor_id": "a0"}]})
            case "/api/v0/logs":
                return self._json({"internal": FILES[asked["node_id"]]})
            case path if "actor_id" in asked:
                assert path == "/api/v0/logs/file"
                return httpx.Response(200, text=":job_id:01\n:actor_name:ControllerActor\nit began\n\n")
        return httpx.Response(200, text="\n".join(f"line {number}" for number in range(int(asked["lines"]))))

    def _json(self, result: object) -> httpx.Response:
        return httpx.Response(200, content=json.dumps({"data": {"result": result}}))


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[LogReader]:
    with httpx.Client(transport=Answers(), base_url="http://dashboard") as client:
        monkeypatch.setattr(httpx, "get", lambda url, *, timeout, trust_env, verify, **more: client.get(url, **more))  # noqa: ARG005
        monkeypatch.setattr(httpx, "stream", lambda how, url, *, timeout, trust_env, **more: client.stream(how, url, **more))  # noqa: ARG005
        yield LogReader(DashboardAsker("http://dashboard", read_settings({"HEADRACE_HOME": str(tmp_path)}).home, owns_ray=True))


def test_the_controller_and_all_that_live_are_found_and_ray_s_own_marks_are_no_lines(reader: LogReader) -> None:
    found = reader.sources(LogFilter())
    assert [one.label for one in found] == ["controller", *(one.label for one in sources_of({"n1": FILES["n1"]}))]
    assert [line.text for line in reader.tail(found[0], 5)] == ["it began"]
    assert [line.text for line in reader.tail(found[1], 2)] == ["line 0", "line 1"]


def test_logs_are_followed_until_all_have_ended(reader: LogReader) -> None:
    sources = [LogSource(LogKind.REPLICA, "n1", "digits", number, "r", "f") for number in (1, 2)]
    found = [(line.source.version, line.text) for line in reader.follow(sources, 2)]
    assert sorted(found, key=str) == [(1, "line 0"), (1, "line 1"), (2, "line 0"), (2, "line 1")]


def test_a_dashboard_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, reader: LogReader) -> None:
    def away(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx, "get", away)
    with pytest.raises(Unreachable, match="the logs can't be had: ConnectError"):
        reader.sources(LogFilter())


def test_a_models_logs_are_there_while_no_gateway_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, reader: LogReader
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "_dashboard", lambda _: reader._dashboard)
    assert main(["logs", "--model", "digits:3", "--lines", "1"]) == 0
    shown = capsys.readouterr()
    assert "digits version 3 ab12 | line 0" in shown.out
    assert "the streams of digits are not known, and theirs are left out: nothing is running" in shown.err
