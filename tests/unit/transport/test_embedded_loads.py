"""What a gateway with engines of its own does where one does not load: remote is used, and what may come back is tried again."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import BadArtifact, Forbidden, HeadraceError, Unreachable
from cluster.fleet.serving import Serving
from cluster.routing.routes import Target
from deployments.engines.port import Engine
from deployments.transport.engine_process import EngineProcess
from deployments.transport.transports import EmbeddedTransport
from tests.support.models import SIGNATURE

pytestmark = pytest.mark.anyio
TARGET = Target(app="digits--v1", version=1, artifact_uri="/none", digest="d", engine="onnx", signature=SIGNATURE)


class Loads:
    """Fails as told, then loads."""

    def __init__(self, *errors: HeadraceError) -> None:
        self._errors = [*errors]
        self._loop = asyncio.get_running_loop()
        self.last = asyncio.Event()

    def __call__(self, target: Target, serving: Serving) -> Engine:
        error = self._errors.pop(0) if self._errors else None
        if not self._errors:
            self._loop.call_soon_threadsafe(self.last.set)
        if error is not None:
            raise error
        return None  # type: ignore[return-value]


async def test_what_may_come_back_is_tried_again_without_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []

    def at_once(failures: int) -> float:
        waits.append(failures)
        return 0.0

    monkeypatch.setattr("deployments.transport.transports.backoff_s", at_once)
    load = Loads(Unreachable("Vault does not answer"), Forbidden("no key of this machine opens it"), BadArtifact("is damaged"))
    transport = EmbeddedTransport(load)
    transport.keep({TARGET.app: (TARGET, Serving())})
    await load.last.wait()
    await transport.settled([TARGET.app])
    assert waits == [1, 2]
    assert not transport.ready(TARGET), "what is damaged waits for another table"
    transport.keep({TARGET.app: (TARGET, Serving())})
    await transport.settled([TARGET.app])
    assert transport.ready(TARGET)
    await transport.close()


async def test_what_nobody_wants_any_more_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.transport.transports.backoff_s", lambda _: 0.0)
    load = Loads(Unreachable("Vault does not answer"))
    transport = EmbeddedTransport(load)
    transport.keep({TARGET.app: (TARGET, Serving())})
    await transport.settled([TARGET.app])
    transport.keep({})
    await asyncio.sleep(0.01)  # long enough for what was due at once
    assert not transport.ready(TARGET)
    await transport.settled([TARGET.app])
    assert not transport.ready(TARGET)
    await transport.close()


class HalfConnected(EngineProcess):
    """Never gets its lines."""

    def __init__(self) -> None:
        self.connecting, self.closed = asyncio.Event(), False

    async def connect(self) -> None:
        self.connecting.set()
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


async def test_a_process_that_nobody_wants_any_more_ends_also_while_it_is_being_connected() -> None:
    engine = HalfConnected()
    transport = EmbeddedTransport(lambda *_: engine)
    transport.keep({TARGET.app: (TARGET, Serving())})
    await engine.connecting.wait()
    transport.keep({})
    for _ in range(3):
        await asyncio.sleep(0)
    assert engine.closed
    await transport.close()
