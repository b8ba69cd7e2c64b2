"""The control client to a real controller over fakes, as commands use it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import orjson
import pytest

from cluster.errors import HeadraceError
from deployments.gateway.http.asgi import control_error_reply
from headrace.client import ControlClient
from tests.support.brain import Brain


def ask_brain(brain: Brain, monkeypatch: pytest.MonkeyPatch, *, each_s: float = 0.5) -> None:
    """Has every command in this test ask that controller, as ann. It ticks after each, so much later."""

    def answer(request: httpx.Request) -> httpx.Response:
        try:
            found = brain.call(request.url.path.removeprefix("/control/"), **json.loads(request.content))
        except HeadraceError as error:
            reply = control_error_reply(error)
            return httpx.Response(reply.status, content=reply.body)
        finally:
            brain.tick(each_s=each_s)
        return httpx.Response(200, content=orjson.dumps(found))

    def client(settings: Any = None) -> ControlClient:
        return ControlClient("http://gateway", transport=httpx.MockTransport(answer), actor="ann")

    monkeypatch.setattr(ControlClient, "from_environment", staticmethod(client))
