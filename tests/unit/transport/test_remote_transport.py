"""What Ray raises, as callers of the remote transport meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import NoCapacity
from cluster.routing.routes import Target
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.transport.remote import LINE_MOST_BYTES, RemoteTransport, by_serve

pytestmark = pytest.mark.anyio


X, Y = (TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 1)) for name in "xy")
TARGET = Target(1, "m--v1", "file:///nowhere", "sha256-1", "onnx", Signature(inputs=(X,), outputs=(Y,)))


def asking(monkeypatch: pytest.MonkeyPatch, remote: Callable[..., Any]) -> RemoteTransport:
    """A transport whose handles do this."""
    transport = RemoteTransport()
    monkeypatch.setattr(transport, "_handle", lambda _: SimpleNamespace(score=SimpleNamespace(remote=remote)))
    return transport


async def test_a_call_that_is_lost_for_no_reason_of_its_own_may_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: Any) -> Any:
        raise ValueError("the owner is unknown")

    with pytest.raises(NoCapacity, match="the call was lost: ValueError"):
        await asking(monkeypatch, lost).score(TARGET, {"x": np.zeros((1, 1), np.float32)}, 5.0)


async def test_a_line_that_breaks_leaves_the_call_to_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answered(tensors: dict[str, Any], _: float) -> Any:
        return {"y": tensors["x"] + 1}, [], []

    async def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a defect")

    transport = asking(monkeypatch, answered)
    monkeypatch.setattr(transport, "_line", lambda *_: SimpleNamespace(score=broken))
    answer = await transport.score(TARGET, {"x": np.zeros((2, 1), np.float32)}, 5.0)
    assert answer.outputs["y"].tolist() == [[1.0], [1.0]]
    assert "a defect" in caplog.text


class Response(asyncio.Future[int]):
    """As a handle gives one."""


async def test_a_callers_end_that_comes_with_the_answer_ends_the_call() -> None:
    # It was lost: a caller who called again and again went on past his deadline, for ever.
    response = Response()
    call = asyncio.create_task(by_serve(response, "m--v1", 5.0))
    await asyncio.sleep(0)
    response.set_result(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_replica_that_does_not_answer_in_time_is_no_capacity() -> None:
    response = Response()
    with pytest.raises(NoCapacity, match="no replica answered in time"):
        await by_serve(response, "m--v1", 0.01)
    assert response.cancelled()


async def test_how_many_replicas_there_are_is_known_also_where_all_calls_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answered(tensors: dict[str, Any], _: float) -> Any:
        return {"y": tensors["x"]}, [], []

    chooser = SimpleNamespace(curr_replicas={"one": None, "other": None})
    counts = SimpleNamespace(
        inc_num_running_requests_for_replica=lambda _: None, dec_num_running_requests_for_replica=lambda _: None
    )
    router = SimpleNamespace(_request_router=chooser, _metrics_manager=counts)
    handle = SimpleNamespace(
        score=SimpleNamespace(remote=answered), _router=SimpleNamespace(_asyncio_router=router), is_initialized=True
    )
    transport = RemoteTransport()
    monkeypatch.setattr(transport, "_handle", lambda _: handle)
    assert transport.replicas(TARGET) == 1
    await transport.score(TARGET, {"x": np.zeros((LINE_MOST_BYTES // 4 + 1, 1), np.float32)}, 5.0)
    assert transport.replicas(TARGET) == 2
