"""The gateway in a real Serve over the real controller and replicas, asked by clients as their users have them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from deployments.engines.load import load_engine
from deployments.gateway.deployment import GatewaySettings
from headrace.local.home import read_settings
from tests.broker import free_port
from tests.conftest import RayCluster
from tests.live import Service
from tests.live import running as running_service
from tests.models import INPUT, OUTPUT, mlp_artifact, rows

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Running:
    """A gateway that serves version 1 of `model`, and what that version answers to `x`."""

    model: str
    http: str
    grpc: str
    x: np.ndarray
    expected: np.ndarray


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, GatewaySettings]]:
    settings = GatewaySettings(grpc_port=free_port())
    home = read_settings({"HEADRACE_HOME": str(tmp_path_factory.mktemp("gateway"))})
    with running_service(ray_cluster, home, "online", settings) as service:
        yield service, settings


@pytest.fixture(scope="module", params=["remote", "embedded"])
def running(service: tuple[Service, GatewaySettings], tmp_path_factory: pytest.TempPathFactory, request: Any) -> Running:
    model = replace(service[0], name=f"online-{request.param}")
    artifact = mlp_artifact(tmp_path_factory.mktemp("artifact"), model.name)
    model.apply({"transport": request.param, "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, {})
    model.register(artifact)
    assert model.ended(1).state == "promoted"
    while httpx.get(f"{model.url}/v2/models/{model.name}/ready", timeout=60).status_code != 200:
        time.sleep(0.05)  # the test's own limit ends it
    x = rows(5)
    expected = load_engine(Path(artifact[0])).score({INPUT: x})[OUTPUT]
    return Running(model.name, model.url, f"127.0.0.1:{service[1].grpc_port}", x, expected)


def test_tritonclient_http(running: Running) -> None:
    model = running.model
    with triton_http.InferenceServerClient(running.http.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready("none")
        assert client.get_model_metadata(model)["inputs"] == [{"name": INPUT, "datatype": "FP32", "shape": [-1, 784]}]
        for binary, compression in ((True, None), (False, "gzip"), (True, "deflate")):
            tensor = triton_http.InferInput(INPUT, list(running.x.shape), "FP32")
            tensor.set_data_from_numpy(running.x, binary_data=binary)
            answer = client.infer(
                model,
                [tensor],
                request_id="7",
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            np.testing.assert_allclose(answer.as_numpy(OUTPUT), running.expected, atol=1e-5)
            assert (answer.get_response()["model_version"], answer.get_response()["id"]) == ("1", "7")
        wrong = triton_http.InferInput(INPUT, [1, 784], "FP64")
        wrong.set_data_from_numpy(np.zeros((1, 784)))
        with pytest.raises(triton_http.InferenceServerException, match="must be FP32"):
            client.infer(model, [wrong])


def test_tritonclient_grpc(running: Running) -> None:
    model = running.model
    with triton_grpc.InferenceServerClient(running.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        tensor = triton_grpc.InferInput(INPUT, list(running.x.shape), "FP32")
        tensor.set_data_from_numpy(running.x)
        answer = client.infer(model, [tensor], request_id="7")
        np.testing.assert_allclose(answer.as_numpy(OUTPUT), running.expected, atol=1e-5)
        assert (answer.get_response().model_version, answer.get_response().id) == ("1", "7")


def test_curl(running: Running) -> None:
    tensor = {"name": INPUT, "shape": list(running.x.shape), "datatype": "FP32", "data": running.x.tolist()}
    body = json.dumps({"inputs": [tensor]})
    url = f"{running.http}/v2/models/{running.model}/infer"
    told = subprocess.run(["curl", "-sf", url, "-d", "@-"], input=body.encode(), capture_output=True, check=True).stdout
    output = json.loads(told)["outputs"][0]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), running.expected, atol=1e-5)


def test_v1_predict(running: Running) -> None:
    url = f"{running.http}/v1/models/{running.model}:predict"
    answer = httpx.post(url, json={"instances": running.x.tolist()})
    np.testing.assert_allclose(answer.json()["predictions"], running.expected, atol=1e-5)


def test_bad_rows_are_named_and_neighbours_are_not_touched(running: Running) -> None:
    spoiled = running.x.copy()
    spoiled[3, 0] = np.nan
    header = {"name": INPUT, "shape": [5, 784], "datatype": "FP32", "parameters": {"binary_data_size": spoiled.nbytes}}
    body = json.dumps({"inputs": [header]}).encode()
    url = f"{running.http}/v2/models/{running.model}/infer"
    answer = httpx.post(url, content=body + spoiled.tobytes(), headers={"Inference-Header-Content-Length": str(len(body))})
    assert answer.status_code == 400
    assert "row 3" in answer.json()["error"]


def test_the_page_is_served(running: Running) -> None:
    page = httpx.get(f"{running.http}/").text
    assert running.model in page
    assert "Version 1 is stable" in page
