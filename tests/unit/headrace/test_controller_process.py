"""The controller's process: one that rests, because what runs is being ended, and one whose own mistakes are told."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.audit.uses import UseReport
from cluster.errors import HeadraceError, Unreachable
from headrace import controller_actor, controller_start
from headrace.controller_actor import ControllerActor
from headrace.local.home import Settings, read_settings

FAKES = (
    "deployments.serving.fake_fleet:FakeFleet",
    "tests.support.brain:FakeStreams",
    "consumers.batch.schedule.fake_jobs:FakeJobs",
)


class Handle:
    """An actor's handle as Ray gives one: what its methods answer is there at once."""

    def __init__(self, actor: ControllerActor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            return asyncio.run(getattr(self._actor, name)(*arguments))

        return type("Method", (), {"remote": staticmethod(remote)})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(controller_actor, "log_to_stderr", lambda: None)
    monkeypatch.setattr(ControllerActor, "_run", lambda _: None)  # its turns are the test's
    monkeypatch.setattr("headrace.controller_start.ray.get", lambda answer, timeout: answer)  # noqa: ARG005 - Ray's name
    return read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_STORE_URL": f"sqlite:///{tmp_path}/store.db"})


def test_a_controller_that_rests_does_nothing_more_until_an_up_wants_it(settings: Settings) -> None:
    actor = ControllerActor(settings.store_url, *FAKES)
    actor._turn()
    ask = partial(actor.call, "status", {})
    assert isinstance(asyncio.run(ask()), dict)
    asyncio.run(actor.rest())
    refused = asyncio.run(ask())
    assert isinstance(refused, Unreachable)
    assert "ending" in refused.what
    told = UseReport("s", 1, "gateway 7", 0.0, 60.0)
    assert asyncio.run(actor.push(told)) is None
    assert controller_start._trouble_of(Handle(actor), settings, 0.0) is None
    assert isinstance(asyncio.run(ask()), dict)
    assert actor._controller is not None
    assert set(actor._controller._store.load().tellers) == {"s"}


def test_a_mistake_of_ours_in_a_command_is_told_as_one_and_logged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(*_: Any) -> None:
        raise KeyError("Ada")

    actor = ControllerActor(settings.store_url, *FAKES)
    actor._turn()
    monkeypatch.setattr(actor._controller, "call", mistaken)
    with caplog.at_level(logging.ERROR, logger="headrace.controller_actor"):
        answer = asyncio.run(actor.call("status", {}))
    assert type(answer) is HeadraceError  # not one that says to try again
    assert "a fault of Headrace itself, KeyError" in answer.what
    assert "Ada" not in str(answer)
    assert "a mistake of ours in status" in caplog.text


def test_one_that_does_not_begin_says_why_and_leaves_no_store_open(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    closed: list[controller_actor.SqlStore] = []
    monkeypatch.setattr(controller_actor, "audit_signer", no_room)
    monkeypatch.setattr(controller_actor.SqlStore, "close", lambda store: closed.append(store))  # a method
    actor = ControllerActor(settings.store_url, *FAKES, str(settings.home.audit_key))
    actor._turn()
    refused = asyncio.run(actor.call("status", {}))
    assert isinstance(refused, Unreachable)
    assert "it does not begin: PermissionError" in refused.what
    assert len(closed) == 1
