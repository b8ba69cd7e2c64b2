"""gRPC in a real Serve: two gateway replicas behind one port, over the real controller and the real engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import ray
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deployments.artifacts.fetch import localize
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE, connect
from deployments.engines.load import load_engine
from deployments.gateway.deployment import APP, GatewaySettings, start_gateway
from headrace.controller_start import start_controller
from headrace.local.home import read_settings
from headrace.local.ports import free_port
from tests.conftest import RayCluster
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows

MODEL = "grpc-online"
REPLICAS = 2


@dataclass(frozen=True)
class Running:
    """Where the gateway listens, and what version 1 answers to `x`."""

    address: str
    x: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def running(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("grpc")
    uri, digest, manifest = mlp_artifact(folder, MODEL)
    port = free_port()
    try:
        start_controller(read_settings({"HEADRACE_HOME": str(folder)}))
        start_gateway(GatewaySettings(replicas=REPLICAS, http_port=ray_cluster.http_port, grpc_port=port))
        serving = {"transport": "embedded", "resources": {"cpus": 0.5}, "scaling": {"min": 1, "max": 1}}
        version = {"model": MODEL, "artifact_uri": uri, "digest": digest, "engine": manifest.engine}
        asyncio.run(command("apply", {"models": [{"name": MODEL, "serving": serving}]}))
        asyncio.run(command("version.register", version | {"signature": manifest.signature.model_dump(mode="json")}))
        wait_ready(f"127.0.0.1:{port}")
        x = rows(5)
        yield Running(f"127.0.0.1:{port}", x, load_engine(localize(uri, digest)).score({INPUT: x})[OUTPUT])
    finally:
        ray.kill(ray.get_actor(CONTROLLER_ACTOR, namespace=NAMESPACE), no_restart=True)
        for app in [APP, *(app for app in serve.status().applications if app.startswith(MODEL))]:
            serve.delete(app)


async def command(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    return await connect().call(name, payload)


def wait_ready(address: str) -> None:
    """Every replica learns of routes by itself, so each connection asks anew which one it meets."""
    deadline = time.monotonic() + 120
    ready = 0
    while ready < 4 * REPLICAS:
        assert time.monotonic() < deadline, asyncio.run(command("status", {}))
        with connection(address) as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady(
                service_pb2.ModelReadyRequest(name=MODEL), wait_for_ready=True, timeout=60
            )
        ready = ready + 1 if answer.ready else 0
        if not answer.ready:
            time.sleep(0.2)


def connection(address: str) -> grpc.Channel:
    """One of its own: channels of one process share connections else."""
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def asked(x: np.ndarray[Any, Any]) -> Any:
    tensor = triton.InferInput(INPUT, list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return tensor


def test_tritonclient_and_what_the_controller_knows(running: Running) -> None:
    with triton.InferenceServerClient(running.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL, "1")
        assert not client.is_model_ready("none")
        for compression in (None, "gzip"):
            answer = client.infer(MODEL, [asked(running.x)], request_id="7", compression_algorithm=compression)
            np.testing.assert_allclose(answer.as_numpy(OUTPUT), running.expected, atol=1e-5)
            assert (answer.get_response().model_version, answer.get_response().id) == ("1", "7")
        index = client.get_model_repository_index(as_json=True)["models"]
        assert index == [{"name": MODEL, "version": "1", "state": "READY"}]
        client.load_model(MODEL)
        assert client.get_model_config(MODEL, as_json=True)["config"]["input"][0]["dims"] == ["784"]
        wrong = triton.InferInput(INPUT, [1, 784], "FP64")
        wrong.set_data_from_numpy(np.zeros((1, 784)))
        with pytest.raises(triton.InferenceServerException, match=r"INVALID_ARGUMENT.*tensor.*must be FP32"):
            client.infer(MODEL, [wrong])


def test_tritonclients_asyncio_form_under_many_calls_at_once(running: Running) -> None:
    async def play() -> None:
        async with triton_aio.InferenceServerClient(running.address) as client:
            answers = await asyncio.gather(*(client.infer(MODEL, [asked(running.x)]) for _ in range(200)))
        for answer in answers:
            np.testing.assert_allclose(answer.as_numpy(OUTPUT), running.expected, atol=1e-5)

    asyncio.run(play())


def test_kserves_form_with_typed_contents(running: Running) -> None:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name=INPUT, datatype="FP32", shape=running.x.shape).contents.fp32_contents.extend(
        running.x.ravel().tolist()
    )
    with connection(running.address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        told = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(running.expected.shape)
        np.testing.assert_allclose(told, running.expected, atol=1e-5)
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=MODEL))
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_message_of_64_mib_and_one_over_the_limit(running: Running) -> None:
    with triton.InferenceServerClient(running.address) as client:
        x = np.tile(running.x, ((64 << 20) // running.x.nbytes + 1, 1))
        answer = client.infer(MODEL, [asked(x)])
        assert answer.as_numpy(OUTPUT).shape == (len(x), running.expected.shape[1])
        with pytest.raises(triton.InferenceServerException, match="RESOURCE_EXHAUSTED"):
            client.infer(MODEL, [asked(np.tile(x, (5, 1)))])
