"""A controller that rests, because what runs is being ended: it takes what it is told, and goes on where somebody wants it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.audit.uses import UseReport
from cluster.errors import Unreachable
from headrace import controller_actor
from headrace.controller_actor import ControllerActor
from headrace.local.home import read_settings


class Handle:
    """An actor's handle as Ray gives one: what its methods answer is there at once."""

    def __init__(self, actor: ControllerActor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            return asyncio.run(getattr(self._actor, name)(*arguments))

        return type("Method", (), {"remote": staticmethod(remote)})


def test_a_controller_that_rests_does_nothing_more_until_an_up_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_actor, "log_to_stderr", lambda: None)
    monkeypatch.setattr(ControllerActor, "_run", lambda _: None)  # its turns are the test's
    monkeypatch.setattr("headrace.controller_actor.ray.get", lambda answer, timeout: answer)  # noqa: ARG005 - Ray's name
    settings = read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_STORE_URL": f"sqlite:///{tmp_path}/store.db"})
    fakes = (
        "deployments.serving.fake_fleet:FakeFleet",
        "tests.support.brain:FakeStreams",
        "consumers.batch.schedule.fake_jobs:FakeJobs",
    )
    actor = ControllerActor(settings.store_url, *fakes)
    actor._turn()
    ask = partial(actor.call, "status", {})
    assert isinstance(asyncio.run(ask()), dict)
    asyncio.run(actor.rest())
    refused = asyncio.run(ask())
    assert isinstance(refused, Unreachable)
    assert "ending" in refused.what
    told = UseReport("s", 1, "gateway 7", 0.0, 60.0)
    assert asyncio.run(actor.push(told)) is None
    assert controller_actor._trouble_of(Handle(actor), settings, 0.0) is None
    assert isinstance(asyncio.run(ask()), dict)
    assert actor._controller is not None
    assert set(actor._controller._store.load().tellers) == {"s"}
