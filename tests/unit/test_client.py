"""The control client, against a transport that answers what a gateway would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cluster import errors
from cluster.commands import Apply, ModelDocument, Nothing, StatusView
from headrace.client import KINDS, ControlClient
from headrace.local.home import read_settings
from headrace.local.run_state import Addresses, Phase, RunState, save_run

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
        control.call("status", Nothing(), StatusView)
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
