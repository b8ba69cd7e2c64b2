"""The console's answers, asked through ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cluster.access.callers import EVERYTHING, Caller, Role
from cluster.access.keys import StoredKey, new_key
from cluster.access.policy import AccessPolicy
from cluster.commands.keys import LINK
from cluster.errors import Unauthenticated
from deployments.gateway.console.console import BEHIND_BUTTONS
from tests.support.gateway_fakes import FakeControl, FakeScorer, gateway, table

KEY = new_key()
POLICY = AccessPolicy(keys={KEY.id: StoredKey(KEY.id, "ann", KEY.digest, EVERYTHING, 0.0)})
OWN = {"origin": "http://gateway"}


class _Control(FakeControl):
    """Notes who asks, and takes the code of a link once, as the controller does."""

    def __init__(self) -> None:
        super().__init__(replace(table(), access=POLICY))
        self.asked: list[tuple[str, str]] = []
        self.codes: set[str] = set()

    async def call(self, command: str, payload: dict[str, Any], caller: Caller | None = None) -> dict[str, Any]:
        if command == LINK.name:
            if payload["code"] in self.codes:
                raise Unauthenticated("this link was used")
            self.codes.add(payload["code"])
            return {}
        self.asked.append((command, caller.name if caller is not None else ""))
        return {}


def run(scene: Callable[[httpx.AsyncClient, _Control], Awaitable[None]]) -> None:
    async def play() -> None:
        control = _Control()
        app = gateway(FakeScorer(control.table), control)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await scene(client, control)

    asyncio.run(play())


def test_a_key_becomes_a_session_that_buttons_are_pressed_with() -> None:
    async def scene(client: httpx.AsyncClient, control: _Control) -> None:
        assert (await client.get("/console/me")).json()["anonymous"] is True
        answer = await client.post("/console/login", json={"key": KEY.text}, headers=OWN)
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 200
        assert "; Path=/console; Max-Age=43200; HttpOnly; SameSite=Strict" in cookie
        assert KEY.text not in cookie
        me = (await client.get("/console/me")).json()
        assert (me["name"], me["session"], me["grants"]) == ("key ann", True, [{"roles": list(Role), "models": ["*"]}])
        assert (await client.post("/console/control/rollout.pause", json={"model": "digits"}, headers=OWN)).status_code == 200
        assert control.asked == [("rollout.pause", "key ann")]
        # The cookie is the console's alone: elsewhere it is nobody.
        await client.post("/control/rollout.pause", json={"model": "digits"})
        assert control.asked[-1] == ("rollout.pause", "anybody")
        left = await client.post("/console/logout", json={}, headers=OWN)
        assert "Max-Age=0" in left.headers["set-cookie"]

    run(scene)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),  # nothing says that a page of ours sent it
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://gateway", "host": "evil.example"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        (OWN, 200),
    ],
)
@pytest.mark.parametrize("path", ["control/rollout.abort", "login", "logout"])
def test_only_its_own_page_changes_anything(path: str, headers: dict[str, str], status: int) -> None:
    async def scene(client: httpx.AsyncClient, control: _Control) -> None:
        body = {"key": KEY.text} if path == "login" else {"model": "digits"}
        assert (await client.post(f"/console/{path}", json=body, headers=headers)).status_code == status
        assert status == 200 or control.asked == []

    run(scene)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "login", {"key": "hr_wrong"}, 401),
        ("POST", "login", {"key": "not a key"}, 400),
        ("POST", "login", {"code": "code.0.0.0.0"}, 401),
        ("POST", "login", {}, 400),
        ("POST", "control/key.create", {}, 404),
        ("POST", "control/apply", {}, 404),
        ("POST", "link", {}, 403),
        ("POST", "streams/orders/letters", {}, 404),  # this gateway acts on none
        ("GET", "control/rollout.abort", None, 404),
        ("GET", "../key", None, 404),
        ("GET", "static/../console.py", None, 404),
        ("PUT", "login", {}, 405),
        ("POST", "events", {}, 400),
    ],
)
def test_what_is_refused(method: str, path: str, body: dict[str, Any] | None, status: int) -> None:
    async def scene(client: httpx.AsyncClient, control: _Control) -> None:
        answer = await client.request(method, f"/console/{path}", json=body, headers=OWN)
        assert answer.status_code == status
        assert "www-authenticate" not in answer.headers  # a browser would ask for a name and a password
        assert control.asked == []

    run(scene)


def test_what_is_tried_is_scored_as_who_is_there() -> None:
    async def scene(client: httpx.AsyncClient, control: _Control) -> None:
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        answer = await client.post("/console/models/pair/infer", json=body, headers=OWN)
        assert (answer.status_code, answer.json()["model_version"]) == (200, "3")
        pinned = await client.post("/console/models/pair/versions/2/infer", json=body, headers=OWN)
        assert pinned.json()["model_version"] == "2"
        assert (await client.post("/console/models/other/infer", json=body, headers=OWN)).status_code == 404
        assert (await client.post("/console/models/pair/infer", json=body)).status_code == 403

    run(scene)


def test_a_link_is_for_who_has_a_key_and_good_once_over_all_gateways() -> None:
    async def scene(client: httpx.AsyncClient, control: _Control) -> None:
        made = await client.post("/console/link", headers={"authorization": f"Bearer {KEY.text}"})
        code = made.json()["path"].removeprefix("/console/#code=")
        assert KEY.text not in code
        statuses = [(await client.post("/console/login", json={"code": code}, headers=OWN)).status_code for _ in range(2)]
        assert statuses == [200, 401]
        assert (await client.get("/console/me")).json()["name"] == "key ann"
        other = httpx.ASGITransport(gateway(FakeScorer(control.table), control))
        async with httpx.AsyncClient(transport=other, base_url="http://gateway") as elsewhere:
            assert (await elsewhere.post("/console/login", json={"code": code}, headers=OWN)).status_code == 401

    run(scene)


def test_buttons_make_no_keys_and_register_nothing() -> None:
    assert not any(name.startswith(("key.", "access.", "version.", "apply")) or "delete" in name for name in BEHIND_BUTTONS)
