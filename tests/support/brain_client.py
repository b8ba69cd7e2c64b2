"""The control client to a real controller over fakes, as commands use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from cluster.access.callers import CLUSTER, Caller
from cluster.errors import HeadraceError
from deployments.gateway.http.asgi import control_error_reply
from headrace.client import ControlClient
from tests.support.brain import Brain


def brain_client(
    brain: Brain, caller: Caller = CLUSTER, *, each_s: float = 0.5, asked: Callable[[str], None] = lambda _: None
) -> ControlClient:
    """One that asks that controller, as ann, with the caller's rights. It ticks after each, so much later. `asked` is told the
    name of each command, and may raise what httpx does."""

    def answer(request: httpx.Request) -> httpx.Response:
        command = request.url.path.removeprefix("/control/")
        asked(command)
        try:
            found = brain.controller.call(command, json.loads(request.content), caller)
        except HeadraceError as error:
            reply = control_error_reply(error)
            return httpx.Response(reply.status, content=reply.body)
        finally:
            brain.tick(each_s=each_s)
        return httpx.Response(200, content=orjson.dumps(found))

    return ControlClient("http://gateway", transport=httpx.MockTransport(answer), actor="ann")


def ask_brain(brain: Brain, monkeypatch: pytest.MonkeyPatch, *, each_s: float = 0.5) -> None:
    """Has every command in this test ask that controller, as ann. It ticks after each, so much later."""

    def client(settings: Any = None, *, patient: bool = True) -> ControlClient:
        return brain_client(brain, each_s=each_s)

    monkeypatch.setattr(ControlClient, "from_environment", staticmethod(client))
