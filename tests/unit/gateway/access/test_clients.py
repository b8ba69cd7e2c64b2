"""Unchanged clients with a key: each of tritonclient's, and what they are told with a wrong one."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.grpc.auth import BasicAuth as GrpcBasicAuth
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from cluster.access.callers import Role, grant_of
from cluster.access.keys import new_key
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.callers import Callers
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer
from tests.support.access import closed, made_key
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, table
from tests.support.listening import slot_in
from tests.support.one_haproxy import HAPROXY, haproxy_before
from tests.support.waiting import within

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="Ray brings no HAProxy here")

KEY = made_key("team", grant_of([Role.SCORE], "pair"))
X = np.array([[1, 2], [3, 4]], np.float32)


def play(scene: Callable[[str, str], Awaitable[None]]) -> None:
    """Runs a scene with the addresses of a gateway behind HAProxy where nobody may do anything without a key."""

    async def run() -> None:
        routes = closed(table(), KEY)
        scorer, control = FakeScorer(routes), FakeControl(routes)
        plane, repository = DataPlane(scorer, PATIENT), Repository(scorer, control)
        server = GatewayServer(plane, repository, control, Guard(scorer, visitors=True), "0", Callers.to())
        with tempfile.TemporaryDirectory() as folder:
            await server.start(slot_in(Path(folder)))
            try:
                async with haproxy_before(Path(folder)) as (http, grpc):
                    await scene(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
            finally:
                await server.stop(1.0)

    asyncio.run(within(60, run()))


def given(kind: Any) -> list[Any]:
    tensor = kind.InferInput("x", [2, 2], "FP32")
    tensor.set_data_from_numpy(X)
    return [tensor]


def by_http(address: str) -> None:
    with triton_http.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match="401"):
            client.infer("pair", given(triton_http))
        with pytest.raises(InferenceServerException, match="401"):
            client.infer("pair", given(triton_http), headers={"Authorization": f"Bearer {new_key().text}"})
        assert np.array_equal(client.infer("pair", given(triton_http), headers=KEY.bearer).as_numpy("double"), 2 * X)
        client.register_plugin(BasicAuth("team", KEY.text))
        assert np.array_equal(client.infer("pair", given(triton_http)).as_numpy("double"), 2 * X)
        assert client.is_model_ready("pair")
        assert client.get_model_metadata("pair")["name"] == "pair"
        with pytest.raises(InferenceServerException, match="404"):
            client.get_model_metadata("other")


def by_grpc(address: str) -> None:
    with triton_grpc.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.infer("pair", given(triton_grpc))
        assert np.array_equal(client.infer("pair", given(triton_grpc), headers=KEY.bearer).as_numpy("double"), 2 * X)
        client.register_plugin(GrpcBasicAuth(KEY.stored.id, KEY.text.removeprefix(f"hr_{KEY.stored.id}_")))
        assert np.array_equal(client.infer("pair", given(triton_grpc)).as_numpy("double"), 2 * X)
        assert client.is_model_ready("pair")
        assert client.get_model_metadata("pair").name == "pair"


def test_the_clients_with_threads() -> None:
    async def scene(http: str, grpc: str) -> None:
        await asyncio.to_thread(by_http, http)
        await asyncio.to_thread(by_grpc, grpc)

    play(scene)


def test_the_clients_of_asyncio() -> None:
    async def scene(http: str, grpc: str) -> None:
        async with triton_http_aio.InferenceServerClient(http) as client:
            with pytest.raises(InferenceServerException, match="401"):
                await client.infer("pair", given(triton_http))
            answer = await client.infer("pair", given(triton_http), headers=KEY.bearer)
            assert np.array_equal(answer.as_numpy("double"), 2 * X)
        async with triton_grpc_aio.InferenceServerClient(grpc) as client:
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                await client.infer("pair", given(triton_grpc))
            answer = await client.infer("pair", given(triton_grpc), headers=KEY.bearer)
            assert np.array_equal(answer.as_numpy("double"), 2 * X)

    play(scene)
