"""`explain` in a Batch document: each row's strongest features beside its answer, with the error of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cluster.errors import BadInput
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.remote_rows import RemoteScorer
from consumers.batch.write.publish import RunManifest
from consumers.batch.write.records import Pinned
from deployments.artifacts.background import read_background
from deployments.artifacts.manifest import read_manifest
from deployments.engines.load import load_engine
from deployments.explain.explaining import explain_rows
from deployments.explain.form import ExplainMethod, ExplainOptions
from deployments.explain.strongest import strongest
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from tests.support.batch_parts import ECHO, digits_pin, engine_scorer, published, spec_of, write_file
from tests.support.explaining_replicas import ExplainingReplicas
from tests.support.models import rows
from tests.support.routing import TableControl, route, target
from tests.unit.scoring.test_scorer_thread import LoadsAtOnce

EXPLAIN = {"top": 3, "method": "shapley", "evaluations": 1600, "class": 4}
OPTIONS = ExplainOptions(method=ExplainMethod.SHAPLEY, evaluations=1600, label=4)


@pytest.fixture(scope="module")
def pin(tmp_path_factory: pytest.TempPathFactory) -> Pinned:
    return digits_pin(tmp_path_factory.mktemp("pinned"))


def run(source: Path, output: Path, pin: Pinned, explain: object = EXPLAIN) -> RunManifest:
    spec, workforce = spec_of(source, output, explain=explain), inline_workforce(engine_scorer)
    return begin("digits", spec, pin, workforce, as_of=None, fresh=True, watch=lambda _progress: None)


def test_each_row_has_the_strongest_features_that_the_engine_alone_tells(tmp_path: Path, pin: Pinned) -> None:
    image = rows(3, seed=5)
    write_file(tmp_path / "in" / "rows.parquet", range(4), [image[0].tolist(), None, image[1].tolist(), image[2].tolist()])
    run(tmp_path / "in", tmp_path / "out", pin)
    table, artifact = published(tmp_path / "out"), Path(pin.artifact_uri)
    assert table["id"].to_pylist() == [0, 2, 3]
    engine = load_engine(artifact)
    alone = explain_rows(engine.score, {"image": image}, engine.signature, read_background(artifact), OPTIONS)
    for place, one in enumerate(alone):
        worth = strongest(one, 3)
        assert table["explained_features"][place].as_py() == [each.feature for each in worth]
        np.testing.assert_allclose(table["explained_values"][place].as_py(), [each.worth for each in worth], atol=1e-5)
        assert table["explained_error"][place].as_py() == pytest.approx(one.completeness_error, abs=1e-5)


def test_replicas_that_also_serve_online_tell_the_same(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in" / "rows.parquet", range(3), rows(3, seed=5).tolist())
    run(tmp_path / "in", tmp_path / "here", pin)
    artifact = (pin.artifact_uri, pin.digest, read_manifest(Path(pin.artifact_uri)))
    replicas = ExplainingReplicas()
    with ScorerThread(
        lambda: RoutedScorer(TableControl(route(target(1, artifact))), embedded=LoadsAtOnce(), explainer=replicas)
    ) as thread:
        spec = spec_of(tmp_path / "in", tmp_path / "there", explain=EXPLAIN, scoring="remote")
        remote = inline_workforce(lambda record: RemoteScorer(thread, "digits", 1, rows_per_call=record.spec.rows_per_call))
        begin("digits", spec, pin, remote, as_of=None, fresh=True, watch=lambda _progress: None)
    assert replicas.asked == 1
    here, there = published(tmp_path / "here"), published(tmp_path / "there")
    for name in ("explained_features", "id"):
        assert there[name].to_pylist() == here[name].to_pylist()
    for name in ("explained_values", "explained_error"):
        np.testing.assert_allclose(there[name].to_pylist(), here[name].to_pylist(), atol=1e-5)


def test_an_output_without_rows_has_the_columns_too(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in" / "rows.parquet", [0], [None])
    run(tmp_path / "in", tmp_path / "out", pin)
    schema = published(tmp_path / "out").schema
    assert schema.field("explained_features").type == pa.list_(pa.string())
    assert schema.field("explained_values").type == pa.list_(pa.float64())
    assert schema.field("explained_error").type == pa.float64()


def test_what_can_never_be_explained_ends_the_run_in_words(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in" / "rows.parquet", [0, 1], rows(2).tolist())
    with pytest.raises(BadInput, match=r"explain\.class"):
        run(tmp_path / "in", tmp_path / "out", pin, EXPLAIN | {"class": 12})
    with pytest.raises(BadInput, match=r"explain\.output.*name one of probabilities"):
        run(tmp_path / "in", tmp_path / "out", pin, EXPLAIN | {"output": "none"})
    with pytest.raises(ValidationError, match="explained_error"):
        spec_of(tmp_path / "in", tmp_path / "out", output={"columns": {"explained_error": "probabilities"}}, explain=EXPLAIN)
    spec = spec_of(tmp_path / "in", tmp_path / "out", explain=EXPLAIN)
    with pytest.raises(BadInput, match="can't be explained here"):
        begin("digits", spec, pin, ECHO, as_of=None, fresh=True, watch=lambda _progress: None)
