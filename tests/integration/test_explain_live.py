"""Explanations by real replicas, past a real door: gradients where there are some, and a batch that asks who serves online."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.remote_rows import RemoteScorer
from consumers.batch.write.records import Pinned
from deployments.artifacts.background import read_background
from deployments.control.client import connect
from deployments.engines.load import load_engine
from deployments.engines.port import Engine, gradients_of
from deployments.explain.explaining import explain_rows
from deployments.explain.form import ExplainMethod, ExplainOptions
from deployments.gateway.deployment import GatewaySettings
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.batch_parts import published, spec_of, write_file
from tests.support.live import Artifact, Service
from tests.support.live import running as running_service
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.torch_models import mlp_program

pytestmark = [pytest.mark.timeout(300), pytest.mark.proof]
ONE = {"transport": "remote", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = read_settings({"HEADRACE_HOME": str(tmp_path_factory.mktemp("explained"))})
    with running_service(ray_cluster, home, "explained", GatewaySettings(grpc_port=None)) as service:
        yield service


def served(service: Service, artifact: Artifact, name: str) -> Service:
    """The artifact as version 1 of a model, on one replica."""
    model = replace(service, name=f"explained-{name}")
    model.apply(ONE, {})
    model.register(artifact)
    assert model.ended(1).state == "promoted"
    return model


def asked(model: Service, image: np.ndarray, **parameters: Any) -> httpx.Response:
    body = {"instances": image.tolist(), "parameters": parameters}
    headers = {"x-timeout-ms": "60000"}
    return httpx.post(f"{model.url}/v1/models/{model.name}:explain", json=body, headers=headers, timeout=90, trust_env=False)


def alone(artifact: Artifact, image: np.ndarray, options: ExplainOptions) -> np.ndarray:
    engine: Engine = load_engine(Path(artifact[0]))
    background = read_background(Path(artifact[0]))
    found = explain_rows(engine.score, {INPUT: image}, engine.signature, background, options, gradients=gradients_of(engine))
    return np.array([one.attributions[INPUT] for one in found])


def test_a_torch_program_s_gradients_come_through_the_door(service: Service, tmp_path: Path) -> None:
    artifact, image = mlp_program(tmp_path, model="explained-torch"), rows(2, seed=4)
    model = served(service, artifact, "torch")
    answer = asked(model, image, method="gradients", **{"class": 3})
    assert answer.status_code == 200, answer.text
    found = answer.json()["explanations"]
    assert {one["method"] for one in found} == {"gradients"}
    want = alone(artifact, image, ExplainOptions(method=ExplainMethod.GRADIENTS, label=3))
    np.testing.assert_allclose([one["attributions"][INPUT] for one in found], want, atol=1e-5)
    assert max(one["error"] for one in found) < 0.01
    picked = asked(model, image).json()["explanations"]
    assert {one["method"] for one in picked} == {"gradients"}  # what `auto` is, where there are some


def test_a_version_without_a_torch_program_says_what_to_do_and_explains_a_batch(service: Service, tmp_path: Path) -> None:
    artifact, image = mlp_artifact(tmp_path, model="explained-onnx"), rows(3, seed=4)
    model = served(service, artifact, "onnx")
    refused = asked(model, image, method="gradients")
    assert refused.status_code == 400, refused.text
    told = refused.json()["error"]
    assert "explain.method: the version has no torch program" in told
    assert "say shapley or occlusion" in told

    write_file(tmp_path / "in" / "rows.parquet", range(3), image.tolist())
    explain = {"top": 4, "method": "shapley", "evaluations": 3200, "class": 3}
    spec = spec_of(tmp_path / "in", tmp_path / "out", model=model.name, scoring="remote", explain=explain)
    uri, digest, manifest = artifact
    pin = Pinned(model=model.name, version=1, artifact_uri=uri, digest=digest, signature=manifest.signature)
    with ScorerThread(lambda: RoutedScorer(connect())) as thread:
        workforce = inline_workforce(lambda _record: RemoteScorer(thread, model.name, 1, rows_per_call=64))
        begin("explained", spec, pin, workforce, as_of=None, fresh=True, watch=lambda _progress: None)
    want = alone(artifact, image, ExplainOptions(method=ExplainMethod.SHAPLEY, evaluations=3200, label=3))
    table = published(tmp_path / "out")
    for row, values in enumerate(table["explained_values"].to_pylist()):
        names = table["explained_features"][row].as_py()
        assert len(names) == 4
        places = [int(name.removeprefix(f"{INPUT}[").removesuffix("]")) for name in names]
        np.testing.assert_allclose(values, want[row, places], atol=1e-5)
        assert np.abs(values).min() >= np.sort(np.abs(want[row]))[-4] - 1e-5
