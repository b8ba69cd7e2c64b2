"""What Ray raises, as callers of the remote transport meet it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import NoCapacity
from cluster.routes import Target
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.remote import RemoteTransport

pytestmark = pytest.mark.anyio


async def test_a_call_that_is_lost_for_no_reason_of_its_own_may_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: Any) -> Any:
        raise ValueError("the owner is unknown")

    transport = RemoteTransport()
    monkeypatch.setattr(transport, "_handle", lambda _: SimpleNamespace(score=SimpleNamespace(remote=lost)))
    x, y = (TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 1)) for name in "xy")
    signature = Signature(inputs=(x,), outputs=(y,))
    target = Target(1, "m--v1", "file:///nowhere", "sha256-1", "onnx", signature)
    with pytest.raises(NoCapacity, match="the owner is unknown"):
        await transport.score(target, {"x": np.zeros((1, 1), np.float32)}, 5.0)
