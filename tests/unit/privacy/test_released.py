"""What leaves of answers that a model's document limits: the same on every way, while versions are judged by all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.errors import Conflict, EngineFailure, Forbidden
from cluster.fleet.outputs import OutputLimit, misfit
from cluster.fleet.serving import Serving
from cluster.routing.routes import LabelledOutput
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from deployments.explain.form import ExplainOptions
from deployments.privacy.released import released
from deployments.scoring.scorer import RoutedScorer
from deployments.transport.transports import EmbeddedTransport
from tests.support.batch_parts import digits_pin, engine_scorer, published, scores, spec_of, write_dataset
from tests.support.brain import Brain
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows
from tests.support.routing import TableControl, route, target

INLINE = inline_workforce(engine_scorer)
P = np.array([[0.12345, 0.6, 0.27655], [0.5, 0.25, 0.25]], np.float32)


def limited(scores: Any, **limit: Any) -> list[Any]:
    given = np.array(scores, np.float32)
    before = given.copy()
    found = released({"p": given}, {"p": OutputLimit(**limit)})["p"]
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(given, before)
    again = released({"p": found}, {"p": OutputLimit(**limit)})["p"]
    np.testing.assert_array_equal(again, found)
    answer: list[Any] = found.tolist()
    return answer


def test_each_limit() -> None:
    assert limited(P, decimals=2) == np.array([[0.12, 0.6, 0.28], [0.5, 0.25, 0.25]], np.float32).tolist()
    assert limited(P, top=1) == np.array([[0, 0.6, 0], [0.5, 0, 0]], np.float32).tolist()
    assert limited(P, top=2, decimals=1) == np.array([[0, 0.6, 0.3], [0.5, 0.2, 0]], np.float32).tolist()
    assert limited(P, top=9) == P.tolist()
    assert limited(P, label=True) == [[0, 1, 0], [1, 0, 0]]
    assert limited([0.2, 0.5, 0.9], label=True) == [0, 1, 1]
    assert limited([[0.2], [0.7]], label=True) == [[0], [1]]
    assert limited([1234.5678], decimals=0) == [1235]
    assert limited([[-1.0, -2.0, -3.0]], top=1) == [[-1, -1, -1]]  # nothing stands above what was the largest
    assert limited(np.zeros((0, 3)), top=1, decimals=1) == []


def test_rows_with_an_error_stay_zeros_and_other_outputs_whole() -> None:
    outputs = {"p": np.zeros((2, 3), np.float32), "q": P}
    found = released(outputs, {"p": OutputLimit(label=True)}, failed={1: None})
    assert found["p"].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert found["q"] is P
    with pytest.raises(EngineFailure, match="gives no output 'r'"):
        released(outputs, {"r": OutputLimit(decimals=1)})


@pytest.mark.parametrize("limit", [{}, {"label": True, "top": 1}, {"label": True, "decimals": 1}, {"decimals": -1}, {"top": 0}])
def test_limits_that_make_no_sense(limit: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OutputLimit(**limit)


def test_a_version_without_the_output_is_refused() -> None:
    assert misfit({OUTPUT: OutputLimit(top=1)}, SIGNATURE) == ""
    assert "it has no output 'score'; its outputs are probabilities" in misfit({"score": OutputLimit(top=1)}, SIGNATURE)
    brain = Brain()
    brain.apply(serving={"outputs": {"score": {"decimals": 2}}})
    with pytest.raises(Conflict, match=r"serving\.outputs.*no output 'score'"):
        brain.build(1)
    early = Brain()
    early.build(1)
    with pytest.raises(Conflict, match="version 1: it has no output 'score'"):
        early.apply(serving={"outputs": {"score": {"decimals": 2}}})
    good = {"outputs": {"output": {"decimals": 2}}}
    brain.apply(serving=good)
    brain.serve_first(serving=good)
    with pytest.raises(Conflict, match="version 1: it has no output 'score'"):
        brain.apply(serving={"outputs": {"score": {"decimals": 2}}})


@pytest.mark.anyio
async def test_calls_and_streams_get_what_is_limited_and_evidence_is_whole(tmp_path: Path) -> None:
    artifacts = mlp_artifact(tmp_path / "one"), mlp_artifact(tmp_path / "two", nudge=0.5)
    serving = Serving(transport="embedded", outputs={OUTPUT: OutputLimit(label=True)})
    wanted = LabelledOutput(1, OUTPUT, True)
    split = {"candidate": 2, "weight": 0, "shadow": 10_000, "stage": "r1.1", "tolerance": 1e-4, "labels": wanted}
    control = TableControl(route(target(1, artifacts[0]), target(2, artifacts[1]), serving=serving, **split))
    embedded, image = EmbeddedTransport(), rows(20)
    scorer = RoutedScorer(control, embedded=embedded, trial=EmbeddedTransport(), seed=0)
    await scorer.start()
    await embedded.settled([each.app for each in scorer.table.routes["digits"].targets.values()])
    try:
        scored = await scorer.score("digits", {INPUT: image})
        assert scorer._shadows.task is not None
        await scorer._shadows.task
        with pytest.raises(Forbidden, match="its outputs are limited"):
            await scorer.explain("digits", {INPUT: image[:1]}, ExplainOptions(output=OUTPUT))
    finally:
        await scorer.close()
    whole = scores(digits_pin(tmp_path, 0), image)
    assert set(np.unique(scored.outputs[OUTPUT]).tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(scored.outputs[OUTPUT].argmax(axis=1), whole.argmax(axis=1))
    assert scored.label_keys is not None
    assert [key.split("/")[2].split("@")[0] for key in scored.label_keys] == [str(each) for each in whole.argmax(axis=1)]
    counts = control.counts(2)
    assert (counts.compared, counts.disagreed) == (20, 0)  # by their scores, within the tolerance


def test_a_batch_writes_what_is_limited(tmp_path: Path) -> None:
    write_dataset(tmp_path / "in", files=1)
    pin = digits_pin(tmp_path).model_copy(update={"outputs": {OUTPUT: OutputLimit(decimals=1)}})
    begin("digits", spec_of(tmp_path / "in", tmp_path / "out"), pin, INLINE, as_of=None, fresh=False, watch=lambda _: None)
    found = np.array(published(tmp_path / "out")["p"].to_pylist())
    np.testing.assert_allclose(found, np.round(scores(pin, rows(300)).astype(np.float64), 1), atol=1e-6)
    assert len(np.unique(found)) <= 11
