"""What a scorer does for models whose payloads are kept: told with the answer, inputs left in order, disagreements kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.watch.payloads import Payloads, PayloadTopic
from deployments.artifacts.manifest import Manifest
from deployments.engines.load import load_engine
from deployments.observe.payloads.event import PayloadOutcome
from deployments.observe.payloads.log import PayloadLog
from deployments.scoring.scorer import RoutedScorer
from deployments.transport.transports import EmbeddedTransport
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.payloads import CountingMeters, MemorySink
from tests.support.routing import TableControl, route, target

pytestmark = pytest.mark.anyio

Artifact = tuple[str, str, Manifest]
KEPT = Payloads(sample=0.0, disagreements=1.0, kafka=PayloadTopic(topic="t"))
KEYS = [f"key {i}".encode() for i in range(400)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    return mlp_artifact(tmp_path_factory.mktemp("one")), mlp_artifact(tmp_path_factory.mktemp("other"), seed=1)


async def test_disagreements_are_kept_and_what_was_donated_lies_as_it_was(two: tuple[Artifact, Artifact]) -> None:
    split = {"candidate": 2, "weight": 3000, "shadow": 10_000, "stage": "r1.1", "salt": 7, "payloads": KEPT}
    control = TableControl(route(target(1, two[0]), target(2, two[1]), **split))
    sink, embedded, image = MemorySink(), EmbeddedTransport(), rows(400)
    log = PayloadLog(CountingMeters(), lambda _: sink)
    scorer = RoutedScorer(control, embedded=embedded, trial=EmbeddedTransport(), payloads=log, seed=0)
    await scorer.start()
    await embedded.settled([each.app for each in scorer.table.routes["digits"].targets.values()])
    try:
        given = image.copy()
        scored = await scorer.score("digits", {INPUT: given}, KEYS, donated=True)
        assert scorer._shadows.task is not None
        await scorer._shadows.task
    finally:
        await scorer.close()
    assert scored.payloads == KEPT
    np.testing.assert_array_equal(given, image)
    stable, candidate = (load_engine(Path(one[0])).score({INPUT: image})[OUTPUT] for one in two)
    differ = (stable.argmax(axis=1) != candidate.argmax(axis=1)) & (scored.versions == 1)
    assert 0 < differ.sum() < 400
    assert {(event.outcome, event.version, event.weight) for event in sink.events} == {(PayloadOutcome.DISAGREED, 2, 1.0)}
    kept = np.concatenate([event.inputs[INPUT] for event in sink.events])
    said = np.concatenate([(event.outputs or {})[OUTPUT] for event in sink.events])
    np.testing.assert_array_equal(kept, image[differ])
    np.testing.assert_allclose(said, candidate[differ], atol=1e-5)
