"""Rows unlike a version's profile go to the payload log, where its model asks for them: those that are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.watch.catalogue import ScoringWay
from cluster.watch.payloads import Payloads, PayloadTopic
from deployments.artifacts.fetch import localize
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
TOPIC = PayloadTopic(topic="t")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return mlp_artifact(tmp_path_factory.mktemp("profiled"), profiled=600)


async def sent(artifact: Artifact, payloads: Payloads, image: np.ndarray) -> MemorySink:
    """What the log has once the scorer has ended."""
    sink, embedded = MemorySink(), EmbeddedTransport()
    control = TableControl(route(target(1, artifact), payloads=payloads))
    scorer = RoutedScorer(control, embedded=embedded, payloads=PayloadLog(CountingMeters(), lambda _: sink), seed=0)
    await scorer.start()
    known = list(scorer.table.routes["digits"].targets.values())
    await embedded.settled([each.app for each in known])
    scorer._profiles.load("digits", known[0])
    try:
        await scorer.score("digits", {INPUT: image})
        scorer._drift.count()
    finally:
        await scorer.close()
    return sink


async def test_they_are_kept_with_their_answers_and_what_they_stand_for(artifact: Artifact) -> None:
    alike, unlike = rows(180, seed=3), 1 - rows(20, seed=4)
    image = np.concatenate([alike, unlike])
    sink = await sent(artifact, Payloads(sample=0, outliers=1.0, kafka=TOPIC), image)
    (event,) = sink.events
    assert (event.outcome, event.way, event.version, event.weight) == (PayloadOutcome.OUTLIER, ScoringWay.ONLINE, 1, 1.0)
    kept = {row.tobytes() for row in event.inputs[INPUT]}
    assert {row.tobytes() for row in unlike} <= kept
    assert len(kept) < 30
    want = load_engine(localize(*artifact[:2])).score({INPUT: event.inputs[INPUT]})[OUTPUT]
    np.testing.assert_allclose((event.outputs or {})[OUTPUT], want, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_without_any_or_without_asking_nothing_is_kept(artifact: Artifact, share: float) -> None:
    image = rows(3, seed=3) if share else 1 - rows(20, seed=4)
    assert not (await sent(artifact, Payloads(sample=0, outliers=share, kafka=TOPIC), image)).events


async def test_of_more_rows_than_are_looked_at_each_stands_for_several(artifact: Artifact) -> None:
    sink = await sent(artifact, Payloads(sample=0, outliers=1.0, redact=(OUTPUT,), kafka=TOPIC), 1 - rows(4000, seed=5))
    (event,) = sink.events
    assert event.outputs == {}
    assert 200 <= event.rows <= 256
    assert event.weight * event.rows == pytest.approx(4000, rel=0.3)
