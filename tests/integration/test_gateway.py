"""The gateway in a real Serve over the real controller and replicas, asked by clients as their users have them."""

from __future__ import annotations

import itertools
import json
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families

from cluster.access.callers import Role, grant_of
from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.keys import CreateKey
from deployments.artifacts.background import read_background
from deployments.engines.load import load_engine
from deployments.explain.explaining import explain_rows
from deployments.explain.form import ExplainMethod, ExplainOptions
from deployments.gateway.deployment import APP, GatewaySettings
from deployments.observe.traces.settings import TraceSettings
from headrace.cli.main import main
from headrace.local.home import read_settings
from headrace.local.ports import free_port
from headrace.local.services import PAYLOAD_TOPICS
from tests.conftest import RayCluster
from tests.support.access import made_key
from tests.support.live import Service
from tests.support.live import running as running_service
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.trace_receiver import TraceReceiver, receiving
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Running:
    """A gateway that serves version 1 of `model`, and what that version answers to `x`."""

    model: str
    http: str
    grpc: str
    x: np.ndarray
    expected: np.ndarray
    artifact: Path


@pytest.fixture(scope="module")
def receiver() -> Iterator[TraceReceiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def service(
    ray_cluster: RayCluster, receiver: TraceReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, GatewaySettings]]:
    settings = GatewaySettings(
        grpc_port=free_port(), payload_topics=PAYLOAD_TOPICS, traces=TraceSettings(receiver.url, ratio=0.0)
    )
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
    return Running(model.name, model.url, f"127.0.0.1:{service[1].grpc_port}", x, expected, Path(artifact[0]))


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


def test_unchanged_clients_ask_why_rows_are_answered_so(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served by a replica, whatever the model's transport; and the same numbers as the engine alone gives."""
    engine, image = load_engine(running.artifact), running.x[:2]
    options = ExplainOptions(method=ExplainMethod.SHAPLEY, evaluations=4000, label=3)
    asked = {"method": "shapley", "evaluations": 4000, "class": 3}
    alone = explain_rows(engine.score, {INPUT: image}, engine.signature, read_background(running.artifact), options)
    want: np.ndarray = np.stack([one.attributions[INPUT] for one in alone])
    name = f"{running.model}.explain"
    with triton_http.InferenceServerClient(running.http.removeprefix("http://")) as client:
        assert client.is_model_ready(name)
        outputs = [one["name"] for one in client.get_model_metadata(name)["outputs"]]
        tensor = triton_http.InferInput(INPUT, list(image.shape), "FP32")
        tensor.set_data_from_numpy(image)
        answer = client.infer(name, [tensor], parameters=asked)
        assert [one["name"] for one in answer.get_response()["outputs"]] == outputs
        np.testing.assert_allclose(answer.as_numpy(f"attributions.{INPUT}"), want, atol=1e-5)
        assert answer.as_numpy("error").max() < 1e-3
        with pytest.raises(triton_http.InferenceServerException, match=r"explain\.class"):
            client.infer(name, [tensor], parameters={"class": 11})
    with triton_grpc.InferenceServerClient(running.grpc) as client:
        assert client.is_model_ready(name)
        assert [one.name for one in client.get_model_metadata(name).outputs] == outputs
        tensor = triton_grpc.InferInput(INPUT, list(image.shape), "FP32")
        tensor.set_data_from_numpy(image)
        answer = client.infer(name, [tensor], parameters=asked)
        np.testing.assert_allclose(answer.as_numpy(f"attributions.{INPUT}"), want, atol=1e-5)
    body = {"instances": image.tolist(), "parameters": asked}
    v1 = httpx.post(f"{running.http}/v1/models/{running.model}:explain", json=body, timeout=60)
    assert v1.status_code == 200, v1.text
    found = [one["attributions"][INPUT] for one in v1.json()["explanations"]]
    np.testing.assert_allclose(found, want, atol=1e-5)
    cut = httpx.post(
        f"{running.http}/v1/models/{running.model}:explain",
        json=body | {"parameters": {"method": "shapley", "evaluations": 1_000_000}},
        headers={"x-timeout-ms": "700"},
        timeout=60,
    )
    assert cut.status_code == 200, cut.text
    assert all("deadline" in one["why"] for one in cut.json()["explanations"])
    monkeypatch.setenv("HEADRACE_URL", running.http)
    row = tmp_path / "row.json"
    row.write_text(json.dumps({INPUT: image[0].tolist()}))
    command = ["explain", running.model, "--row", str(row), "--served", "--method", "shapley", "--evaluations", "4000"]
    capsys.readouterr()
    assert main([*command, "--class", "3", "--json"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["attributions"][INPUT], want[0], atol=1e-5)


def test_a_sampled_request_is_one_trace_down_to_the_engine(running: Running, receiver: TraceReceiver) -> None:
    """By HTTP and gRPC; the same requests with an unsampled context, and without one, leave nothing."""
    traces = [f"{random.getrandbits(128):032x}" for _ in range(2)]
    for flag in ("00", "01"):
        contexts = [{"traceparent": f"00-{trace}-00f067aa0ba902b7-{flag}"} for trace in traces]
        with triton_http.InferenceServerClient(running.http.removeprefix("http://")) as client:
            tensor = triton_http.InferInput(INPUT, list(running.x.shape), "FP32").set_data_from_numpy(running.x)
            client.infer(running.model, [tensor], headers=contexts[0])
            client.infer(running.model, [tensor])
        with triton_grpc.InferenceServerClient(running.grpc) as client:
            tensor = triton_grpc.InferInput(INPUT, list(running.x.shape), "FP32")
            tensor.set_data_from_numpy(running.x)
            client.infer(running.model, [tensor], headers=contexts[1])
    remote = running.model.endswith("-remote")
    within = [f"ask {running.model}--v1", *(["replica", "wait"] if remote else []), "engine"]
    for trace, first in zip(traces, ("POST /v2/models/{model}/infer", "inference.GRPCInferenceService/ModelInfer"), strict=True):
        wanted = [first, "door", "queue", "call", *within]
        spans = {span.name: span for span in receiver.trace(trace, least=len(wanted))}
        assert sorted(spans) == sorted(wanted)
        root = spans[first]
        assert (root.parent, root.kind, root.service) == ("00f067aa0ba902b7", 2, "headrace-gateway")
        assert (root.attributes["headrace.model"], root.attributes["headrace.version"]) == (running.model, "1")
        chain = [first, "call", within[0], *(["replica"] if remote else []), "engine"]
        for above, below in itertools.pairwise(chain):
            assert spans[below].parent == spans[above].span
            assert spans[above].began_ns <= spans[below].began_ns <= spans[below].ended_ns <= spans[above].ended_ns
        assert spans[within[0]].attributes["headrace.rows"] == len(running.x)
    assert {span.trace for span in receiver.spans if span.attributes.get("headrace.model") == running.model} == set(traces)


def test_payloads_are_kept_and_replayed_to_a_version_that_does_not_serve(
    service: tuple[Service, GatewaySettings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = replace(service[0], name="online-payloads")
    kept, x = tmp_path / "kept", rows(5)
    about = {
        "name": model.name,
        "serving": {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}},
        "payloads": {"sample": 1.0, "parquet": {"path": str(kept), "every_s": 0.2}},
    }
    model.control.apply(Apply(models=(ModelDocument.model_validate(about),)))
    model.register(mlp_artifact(tmp_path / "artifacts", model.name))
    assert model.ended(1).state == "promoted"
    model.control.apply(Apply(models=(ModelDocument.model_validate({**about, "rollout": {"start": "manual"}}),)))
    assert model.register(mlp_artifact(tmp_path / "artifacts", model.name, seed=2)) == 2
    url = f"{model.url}/v2/models/{model.name}"
    until(lambda: httpx.get(f"{url}/ready", timeout=60).status_code == 200, 60)
    with triton_http.InferenceServerClient(model.url.removeprefix("http://")) as client:
        tensor = triton_http.InferInput(INPUT, list(x.shape), "FP32").set_data_from_numpy(x)
        client.infer(model.name, [tensor], request_id="by-http")
        missing = triton_http.InferInput(INPUT, [1, 784], "FP32").set_data_from_numpy(np.full((1, 784), np.nan, np.float32))
        with pytest.raises(triton_http.InferenceServerException, match="NaN"):
            client.infer(model.name, [missing], request_id="bad")
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service[1].grpc_port}") as client:
        tensor = triton_grpc.InferInput(INPUT, list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        expected = client.infer(model.name, [tensor], request_id="by-grpc").as_numpy(OUTPUT)
    found: list[dict[str, Any]] = []

    def look() -> bool:
        files = [str(file) for file in kept.rglob("*.parquet") if not file.name.startswith(".")]
        found[:] = ds.dataset(files, format="parquet").to_table().to_pylist() if files else []
        return len(found) == 11

    until(look, 60)
    by_id = {one: [row for row in found if row["headrace_request_id"] == one] for one in ("by-http", "by-grpc", "bad")}
    for answered in (by_id["by-http"], by_id["by-grpc"]):
        np.testing.assert_array_equal([row[INPUT] for row in answered], x)
        np.testing.assert_allclose([row[f"headrace_output_{OUTPUT}"] for row in answered], expected, atol=1e-5)
        assert {(row["headrace_outcome"], row["headrace_version"], row["headrace_way"]) for row in answered} == {
            ("ok", 1, "online")
        }
    assert [(row["headrace_outcome"], row["headrace_error"]) for row in by_id["bad"]] == [("error", "BadInput")]
    monkeypatch.setenv("HEADRACE_URL", model.url)
    told = {}
    for version in ("1", "2"):
        command = ["payloads", "replay", str(kept), "--model", model.name, "--version", version, "--tolerance", "1e-4", "--json"]
        assert main(command) == 0
        told[version] = json.loads(capsys.readouterr().out)
    assert (told["1"]["requests"], told["1"]["rows"], told["1"]["same"], told["1"]["different"]) == (3, 11, 10, 0)
    assert (told["2"]["same"], told["2"]["different"]) == (0, 10)
    assert main(["payloads", "replay", str(kept), "--model", model.name, "--version", "3"]) != 0


@pytest.mark.proof
def test_rows_unlike_the_profiles_are_told_to_who_asks_and_raise_an_alarm_that_names_them(
    service: tuple[Service, GatewaySettings], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(service[0], name="online-drift")
    model.apply({"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, {})
    model.register(mlp_artifact(tmp_path / "artifacts", model.name, profiled=2000))
    assert model.ended(1).state == "promoted"
    until(lambda: httpx.get(f"{model.url}/v2/models/{model.name}/ready", timeout=60).status_code == 200, 60)
    monkeypatch.setenv("HEADRACE_URL", model.url)
    x = rows(256, seed=11)

    def status() -> dict[str, Any]:
        capsys.readouterr()
        assert main(["drift", "status", model.name, "--json"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["models"]
        return dict(one)

    with (
        triton_http.InferenceServerClient(model.url.removeprefix("http://")) as client,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{service[1].grpc_port}") as by_grpc,
    ):

        def send(sent: np.ndarray, **parameters: bool) -> Any:
            tensor = triton_http.InferInput(INPUT, list(sent.shape), "FP32").set_data_from_numpy(sent)
            return client.infer(model.name, [tensor], parameters=parameters)

        told = send(x, outliers=True).as_numpy("outlier")
        assert (told.shape, told.dtype) == ((256,), np.float64)
        assert (told <= 0.01).mean() < 0.1
        x[::2, 3] += 0.5  # beyond the edge of what the profile has seen
        torn = x.copy()
        torn[:, :40] += 0.5
        tensor = triton_grpc.InferInput(INPUT, list(torn.shape), "FP32")
        tensor.set_data_from_numpy(torn)
        assert (by_grpc.infer(model.name, [tensor], parameters={"outliers": True}).as_numpy("outlier") <= 0.01).all()
        assert send(x).as_numpy("outlier") is None
        found: dict[str, Any] = {}

        def look() -> bool:
            send(x)
            found.update(status())
            return bool(found["alarmed"])

        until(look, 120)
    assert {alarm["size"]["feature"] for alarm in found["alarms"]} >= {f"{INPUT}[3]"}
    assert found["versions"][0]["features"] == 795
    assert found["versions"][0]["profile_rows"] == 2000
    assert main(["drift", "status", model.name]) == 0
    assert f"{INPUT}[3]" in capsys.readouterr().out


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


def test_requests_reach_the_gateway_past_serve(running: Running) -> None:
    answer = httpx.get(f"{running.http}/v2")
    assert answer.status_code == 200
    assert "x-request-id" not in answer.headers  # Serve would have put one in


def test_prometheus_reads_how_many_were_answered_each_once(running: Running) -> None:
    def counted() -> dict[str, float]:
        page = httpx.get(f"{running.http}/metrics", timeout=60).raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        mine = [sample for sample in samples if sample.labels.get("model") == running.model]
        answered = {s.labels["protocol"]: s.value for s in mine if s.labels.get("outcome") == "ok"}
        return answered | {"timed": sum(s.value for s in mine if s.name == "headrace_request_seconds_count")}

    body = {"inputs": [{"name": INPUT, "datatype": "FP32", "shape": list(running.x.shape), "data": running.x.tolist()}]}
    httpx.post(f"{running.http}/v2/models/{running.model}/infer", json=body, timeout=60).raise_for_status()
    with triton_grpc.InferenceServerClient(running.grpc) as client:
        tensor = triton_grpc.InferInput(INPUT, running.x.shape, "FP32")
        tensor.set_data_from_numpy(running.x)
        client.infer(running.model, [tensor])
    (stats,) = httpx.get(f"{running.http}/v2/models/{running.model}/stats", timeout=60).json()["model_stats"]
    answered = stats["inference_stats"]["success"]["count"]
    assert answered > 2
    until(lambda: counted().get("timed") == answered, 60)
    found = counted()
    assert found["http"] + found["grpc"] == answered


def test_the_page_is_served(running: Running) -> None:
    page = httpx.get(f"{running.http}/", headers={"accept": "text/html"}).text
    assert running.model in page
    assert "Version 1 is stable" in page


def test_a_thousand_idle_connections_cost_nothing_noticeable(
    service: tuple[Service, GatewaySettings], ray_cluster: RayCluster
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    host, port = service[0].url.removeprefix("http://").split(":")
    replicas = [psutil.Process(pid) for pid in ray_cluster.replica_pids(APP)]

    def memory_mib() -> float:
        return sum(replica.memory_info().rss for replica in replicas) / 2**20

    def lives(connection: socket.socket) -> bool:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: tests\r\n\r\n")
        told = b""
        while not told.endswith(b"}"):
            more = connection.recv(4096)
            assert more, told
            told += more
        return told.startswith(b"HTTP/1.1 200")

    before_mib = memory_mib()
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((host, int(port)), timeout=120)) for _ in range(1000)]
        assert all(lives(connection) for connection in idle)
        assert httpx.get(f"{service[0].url}/v2/health/live", timeout=120).json() == {"live": True}
        grown_mib = memory_mib() - before_mib
        assert all(lives(connection) for connection in idle[::50])
    print(f"1,000 idle connections: {grown_mib:.1f} MiB more in the gateway")  # noqa: T201
    assert grown_mib < 64


def test_kserves_own_clients(service: tuple[Service, GatewaySettings], tmp_path: Path) -> None:
    """Its REST client in V1 and V2 and its gRPC client, out of the real package, while two versions serve half the keys each;
    without an API key, and with one that was made for the model, for another model, and by nobody."""
    kserve = Path(sys.prefix).with_name(f"{Path(sys.prefix).name}-kserve") / "bin" / "python"
    if not kserve.exists():
        pytest.skip("needs KServe's package in a venv of its own: `make kserve`")
    model = replace(service[0], name="online-kserve")
    half = {"steps": [{"weight": 50, "bake_s": 86_400}, {"weight": 100}], "deadline_s": 86_400}
    model.apply({"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, half)
    artifacts = [mlp_artifact(tmp_path, model.name, seed=seed) for seed in (0, 1)]
    model.register(artifacts[0])
    assert model.ended(1).state == "promoted"
    model.register(artifacts[1])
    model.seen(lambda rollout: (rollout.candidate, rollout.state) == (2, "canary"))
    key = next(key for key, version in model.version_of(b"key-%d" % number for number in range(20)).items() if version == 2)
    x = rows(2)
    np.save(tmp_path / "x.npy", x)
    command = [str(kserve), str(Path(__file__).parent.parent / "support" / "kserve_calls.py"), model.url]
    command += [f"127.0.0.1:{service[1].grpc_port}", model.name, key.decode(), str(tmp_path / "x.npy")]
    keys = [made_key("kserve", grant_of([Role.SCORE], model.name)), made_key("other", grant_of([Role.SCORE], "other-*"))]
    for made in keys:
        stored = made.stored
        model.control.create_key(CreateKey(name=stored.name, id=stored.id, digest=stored.digest, grants=stored.grants))
    command += [*(made.text for made in keys), made_key("nobody").text]
    calls = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120).stdout)

    scored = [load_engine(Path(artifact[0])).score({INPUT: x})[OUTPUT] for artifact in artifacts]
    v1, v2, grpc = calls["v1"], calls["v2"], calls["grpc"]
    for told in (v1, v2, grpc):
        assert told["live"] is True
        assert told["model ready"] is True
        assert "Request for unknown model" in told["other"]
    assert v2["ready"] is grpc["ready"] is True
    assert v2["other ready"] is grpc["other ready"] is False
    assert "404" in v1["other ready"]
    assert (grpc["server"], grpc["inputs"]) == ("headrace", [[INPUT, "FP32", [-1, 784]]])
    np.testing.assert_allclose(v1["infer"]["predictions"], scored[int(v1["infer"]["model_version"]) - 1], atol=1e-5)
    for name in ("json", "binary", "binary both ways", "binary output"):
        assert (v2[name]["model"], v2[name]["id"]) == (model.name, "7")
        assert any(np.allclose(v2[name]["rows"], each, atol=1e-5) for each in scored)
    for name in ("raw", "typed"):
        np.testing.assert_allclose(grpc[name]["rows"], scored[int(grpc[name]["version"]) - 1], atol=1e-5)
    for told, names in ((v2, ("key in a header", "key as a parameter")), (grpc, ("key in the metadata", "key as a parameter"))):
        for name in names:
            np.testing.assert_allclose(told[name]["rows"], scored[1], atol=1e-5)
        for version in (1, 2):
            np.testing.assert_allclose(told[f"version {version}"]["rows"], scored[version - 1], atol=1e-5)
        assert "version 9 is not served" in told["version 9"]
        assert "must be FP32; got FP64" in told["wrong"]
    assert "its shape must be [-1, 784]" in v1["wrong"]
    options = ExplainOptions(method=ExplainMethod.SHAPLEY, evaluations=2000, label=3)
    for name, artifact in (("explain", artifacts[0]), ("explain version 2", artifacts[1])):
        engine, background = load_engine(Path(artifact[0])), read_background(Path(artifact[0]))
        alone = explain_rows(engine.score, {INPUT: x}, engine.signature, background, options)
        found = [one["attributions"][INPUT] for one in v1[name]["explanations"]]
        np.testing.assert_allclose(found, [one.attributions[INPUT] for one in alone], atol=1e-5)
    assert "explain.class" in v1["explain wrong"]
    assert "400" in v1["explain wrong"]
    assert "404" in v1["explain other"]
    with_key, of_another, with_none = calls["tokens"]
    assert with_key["v1"]["predictions"]
    for name in ("v2", "grpc"):
        assert any(np.allclose(with_key[name]["rows"], each, atol=1e-5) for each in scored)
    assert all("Request for unknown model" in words for words in of_another.values())
    assert all("none that is good here came with it" in words for words in with_none.values())
