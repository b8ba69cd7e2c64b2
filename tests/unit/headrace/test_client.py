"""The control client, against a transport that answers what a gateway would."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import errors
from cluster.access.keys import key_id
from cluster.commands.command import Nothing
from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.models import SCALE, ScaleModel
from cluster.commands.registry import COMMANDS
from cluster.commands.status import STATUS as STATUS_COMMAND
from cluster.error_wire import KINDS
from deployments.gateway.door.configuration import NOT_DELIVERED
from headrace.client import ControlClient
from headrace.control_calls import may_answer
from headrace.local.home import read_settings
from headrace.local.home_key import ensure_home_key
from headrace.local.ports import free_port
from headrace.local.run_state import RAY, Addresses, Phase, RunState, StartedProcess, save_run, started
from headrace.patience import Patience

STATUS = {"table": 3, "tick_s": 1.0, "models": [], "feeds": []}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> ControlClient:
    return ControlClient("http://gateway", transport=httpx.MockTransport(answer))


def test_a_command_is_posted_and_its_answer_read() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"changes": [{"kind": "model", "name": "digits", "action": "created"}]})

    with client(answer) as control:
        applied = control.apply(Apply(models=(ModelDocument(name="digits"),)))
    assert (asked[0].method, asked[0].url.path) == ("POST", "/control/apply")
    assert json.loads(asked[0].content)["models"][0]["name"] == "digits"
    assert applied.changes[0].action == "created"


ROW = {"attributions": {"x": [1.5, 0]}, "baseline": 0.5, "answer": 2, "error": 0, "method": "exact", "output": "y"}


def test_a_model_is_asked_why() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if b"none" in request.content:
            return httpx.Response(400, json={"error": "explain.output: the version has no such output"})
        row = ROW | {"scale": "raw", "evaluations": 9}
        return httpx.Response(200, json={"model_name": "digits", "model_version": "3", "explanations": [row]})

    with client(answer) as control:
        found = control.explain("digits", [[1, 2]], version=3, timeout_s=2, method="exact", label=None)
        with pytest.raises(errors.BadInput, match="no such output"):
            control.explain("digits", [[1, 2]], output="none")
    assert found.explanations[0].attributions == {"x": [1.5, 0]}
    assert [request.url.path for request in asked] == ["/v1/models/digits/versions/3:explain", "/v1/models/digits:explain"]
    assert json.loads(asked[0].content) == {"instances": [[1, 2]], "parameters": {"method": "exact"}}
    assert asked[0].headers["x-timeout-ms"] == "2000"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_error_comes_back_as_its_own_class(kind: str) -> None:
    body = {"error": {"kind": kind, "what": "no", "where": "here", "remedy": "do"}}
    with client(lambda _: httpx.Response(409, json=body)) as control, pytest.raises(errors.HeadraceError) as caught:
        control.status()
    assert type(caught.value) is KINDS[kind]
    assert (caught.value.what, caught.value.where, caught.value.remedy) == ("no", "here", "do")


def test_every_error_of_the_tree_can_come_back() -> None:
    tree = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HeadraceError)}
    assert set(KINDS.values()) == tree


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError("refused"), errors.Unreachable),
        (httpx.ReadTimeout("slow"), errors.Unreachable),
        (httpx.RemoteProtocolError("cut"), errors.Unreachable),
    ],
)
def test_a_gateway_that_is_away_is_unreachable_with_a_remedy(failure: Exception, kind: type[Exception]) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise failure

    with client(answer) as control, pytest.raises(kind) as caught:
        control.status()
    assert isinstance(caught.value, errors.HeadraceError)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(404, text="not here"), errors.Unreachable),
        (httpx.Response(503, text="busy"), errors.Unreachable),
        (httpx.Response(500, json={"error": "text"}), errors.HeadraceError),
        (httpx.Response(200, text="<html>"), errors.HeadraceError),
        (httpx.Response(200, json={**STATUS, "surprise": 1}), errors.HeadraceError),
    ],
)
def test_an_answer_of_something_else_is_a_clear_error(response: httpx.Response, kind: type[errors.HeadraceError]) -> None:
    with client(lambda _: response) as control, pytest.raises(kind):
        control.status()


def test_a_bad_url_is_bad_input() -> None:
    with ControlClient("localhost:8000") as control, pytest.raises(errors.BadInput, match="HEADRACE_URL"):
        control.status()


def test_the_address_comes_from_the_environment_then_from_run_json(tmp_path: Path) -> None:
    home = {"HEADRACE_HOME": str(tmp_path)}
    with pytest.raises(errors.Unreachable, match="headrace up"):
        ControlClient.from_environment(read_settings(home))
    addresses = Addresses(http="http://127.0.0.1:8123")
    save_run(read_settings(home).home, RunState(run_id="a", phase=Phase.RUNNING, started_s=1, owns_ray=True, addresses=addresses))
    assert ControlClient.from_environment(read_settings(home)).base_url == "http://127.0.0.1:8123"
    elsewhere = read_settings({**home, "HEADRACE_URL": "http://far:1/"})
    assert ControlClient.from_environment(elsewhere).base_url == "http://far:1"


def test_the_homes_key_goes_to_its_own_gateway_alone(tmp_path: Path) -> None:
    home = {"HEADRACE_HOME": str(tmp_path)}
    known = read_settings(home)
    key = ensure_home_key(known.home)
    url = "http://127.0.0.1:8123"

    def sent(environment: dict[str, str], *processes: StartedProcess) -> str | None:
        run = RunState(run_id="a", phase=Phase.RUNNING, started_s=1, owns_ray=True, processes=processes)
        run = run.model_copy(update={"addresses": Addresses(http=url)})
        save_run(known.home, run)
        with ControlClient.from_environment(read_settings(home | environment)) as control:
            return control._http.headers.get("authorization")

    lives, ended = started("raylet", os.getpid()), StartedProcess(role="raylet", pid=os.getpid(), created_s=1)
    assert key_id((sent({}, lives) or "").removeprefix("Bearer ")) == key.id
    assert sent({"HEADRACE_URL": url + "/"}, lives) is not None
    assert sent({"HEADRACE_URL": "http://far:1"}, lives) is None
    assert sent({}, ended) is None  # whoever has its port now may be anybody
    assert sent({"HEADRACE_URL": url}, ended) is None
    assert sent({"HEADRACE_TOKEN": " mine\n"}, ended) == "Bearer mine"


@pytest.mark.parametrize("token", ["hr_secret\nmore", "hr_secret\0", "hr_secr\u00e9t", "hr secret", "\ufffd"])
def test_a_token_that_none_can_be_is_refused_without_being_told(token: str) -> None:
    with pytest.raises(errors.BadInput, match="blanks, or characters") as caught:
        ControlClient("http://gateway", token=token)
    assert "secr" not in str(caught.value)


class Time:
    """A clock that only sleep moves, and what was noted meanwhile."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.notes: list[tuple[float, str]] = []

    def patience(self, may_answer: Callable[[], bool] = lambda: True) -> Patience:
        return Patience(may_answer, lambda text: self.notes.append((self.now_s, text)), lambda: self.now_s, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Restarting:
    """A gateway that is back at some time, and fails in one way until then."""

    time: Time
    back_s: float
    failure: Exception | httpx.Response
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path.removeprefix("/control/"))
        if self.time.now_s >= self.back_s:
            return httpx.Response(200, json=STATUS if self.asked[-1] == "status" else {})
        if isinstance(self.failure, Exception):
            raise self.failure
        return self.failure

    def client(self, may_answer: Callable[[], bool] = lambda: True) -> ControlClient:
        return ControlClient("http://gateway", transport=httpx.MockTransport(self), patience=self.time.patience(may_answer))


AWAY = {"error": {"kind": "Unreachable", "what": "the gateway starts", "where": "", "remedy": ""}}
FAILURES: list[Exception | httpx.Response] = [
    httpx.ConnectError("refused"),
    httpx.ReadError("cut"),
    httpx.RemoteProtocolError("cut"),
    httpx.Response(502, text="bad gateway"),
    httpx.Response(503, json=AWAY),
    httpx.Response(504, text="slow"),
    httpx.Response(503, json={"error": "gateway: no replica answers now"}, headers={NOT_DELIVERED: "1"}),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_what_only_looks_is_asked_until_the_gateway_is_back(failure: Exception | httpx.Response) -> None:
    gateway = Restarting(Time(), 15.0, failure)
    with gateway.client() as control:
        assert control.status().table == STATUS["table"]
    assert 15 <= gateway.time.now_s < 16.1
    assert len(gateway.asked) < 25
    ((noted_s, note),) = gateway.time.notes
    assert 3 <= noted_s < 5
    assert note.startswith("waiting for the gateway at http://gateway: ")


@pytest.mark.parametrize("failure", FAILURES)
def test_no_longer_than_its_time(failure: Exception | httpx.Response) -> None:
    gateway = Restarting(Time(), 1000.0, failure)
    with gateway.client() as control, pytest.raises(errors.Unreachable):
        control.status()
    assert 28 < gateway.time.now_s <= 30


@pytest.mark.parametrize("failure", FAILURES)
def test_what_changes_something_is_asked_again_only_where_it_was_not_delivered(failure: Exception | httpx.Response) -> None:
    gateway = Restarting(Time(), 5.0, failure)
    with gateway.client() as control:
        if isinstance(failure, httpx.ConnectError) or NOT_DELIVERED in getattr(failure, "headers", {}):
            control.scale("digits", 2)
            assert len(gateway.asked) > 1
        else:
            with pytest.raises(errors.Unreachable):
                control.scale("digits", 2)
            assert gateway.asked == ["model.scale"]


def test_where_nothing_is_left_that_could_answer_it_fails_at_once() -> None:
    gateway = Restarting(Time(), 1000.0, httpx.ConnectError("refused"))
    with gateway.client(lambda: False) as control, pytest.raises(errors.Unreachable, match="headrace up"):
        control.status()
    assert (len(gateway.asked), gateway.time.now_s, gateway.time.notes) == (1, 0.0, [])


def test_a_name_without_an_address_is_not_waited_for() -> None:
    unknown = httpx.ConnectError("no such name")
    unknown.__cause__ = socket.gaierror("no such name")
    gateway = Restarting(Time(), 1000.0, unknown)
    with gateway.client() as control, pytest.raises(errors.Unreachable, match="no such name"):
        control.status()
    assert len(gateway.asked) == 1


def test_every_command_either_looks_or_changes_something() -> None:
    looks = {command for command, entry in COMMANDS.items() if entry.looks}
    verbs = {command.rpartition(".")[2] for command in looks}
    assert verbs == {"status", "resolve", "show", "history", "list", "search", "branches"}
    assert [command for command in COMMANDS if command.rpartition(".")[2] in verbs and command not in looks] == []
    assert set(COMMANDS) > looks


def test_a_run_whose_ray_has_ended_will_not_answer(tmp_path: Path) -> None:
    home = read_settings({"HEADRACE_HOME": str(tmp_path)}).home
    assert not may_answer(home)
    state = RunState(run_id="a", phase=Phase.RUNNING, started_s=1, owns_ray=True, processes=(started(RAY, os.getpid()),))
    save_run(home, state)
    assert may_answer(home)
    ended = state.processes[0].model_copy(update={"created_s": 1.0})  # its pid is another's by now
    save_run(home, state.model_copy(update={"processes": (ended,)}))
    assert not may_answer(home)
    save_run(home, state.model_copy(update={"processes": (), "owns_ray": False}))
    assert may_answer(home)


def test_a_dead_runs_command_fails_at_once(tmp_path: Path) -> None:
    began_s = time.monotonic()
    settings = read_settings({"HEADRACE_HOME": str(tmp_path)})
    addresses = Addresses(http=f"http://127.0.0.1:{free_port()}")
    save_run(settings.home, RunState(run_id="a", phase=Phase.RUNNING, started_s=1, owns_ray=True, addresses=addresses))
    with ControlClient.from_environment(settings) as control, pytest.raises(errors.Unreachable, match="headrace up"):
        control.feeds()
    assert time.monotonic() - began_s < 10  # of the 30 s for which it would wait for one that lives


def test_what_may_change_something_says_who_asks_and_what_a_script_says_itself_is_kept() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={})

    client = ControlClient("http://gateway", transport=httpx.MockTransport(answer), actor="ann")
    client.scale("digits", 2)
    client.remove_version("digits", 1)
    for actor in ("", "bob"):
        client.call(SCALE, ScaleModel(model="digits", replicas=1, actor=actor))
    client.call(replace(STATUS_COMMAND, answer=Nothing), Nothing())
    assert [body.get("actor") for body in bodies] == ["ann", "ann", "ann", "bob", None]
