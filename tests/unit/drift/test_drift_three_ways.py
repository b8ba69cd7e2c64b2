"""Rows are looked at on all three ways: online at once, on a stream once committed, in a batch once their unit is done."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.drift.counts import DriftReport
from cluster.errors import EngineFailure, HeadraceError, NotFound, Unreachable
from cluster.watch.catalogue import ScoringWay
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.watched_rows import WatchedRows
from consumers.batch.write.records import RunRecord
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.loop import Loop
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic
from deployments.artifacts.manifest import Manifest
from deployments.artifacts.profile import fetch_profile
from deployments.drift.drift_sample import DriftSample
from deployments.drift.version_counting import VersionCounting
from deployments.engines.datatypes import Array
from deployments.profiles.making import make_profile
from deployments.scoring.port import Scored
from deployments.scoring.scorer import RoutedScorer
from deployments.transport.transports import EmbeddedTransport
from tests.support.batch_parts import engine_scorer, pinned, spec_of, write_dataset
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.routing import TableControl, route, target
from tests.support.stream_parts import SIGNATURE as SUMS
from tests.support.stream_parts import SumScoring
from tests.support.waiting import until

Artifact = tuple[str, str, Manifest]


class DriftControl(TableControl):
    """Keeps what it is told of rows."""

    def __init__(self, *routes: object) -> None:
        super().__init__(*routes)  # type: ignore[arg-type]
        self.told: list[DriftReport] = []

    async def push(self, told: object) -> None:
        self._reach()
        if isinstance(told, DriftReport):
            if told.reference is None:
                raise NotFound("no reference")
            self.told.append(told)

    def rows(self, version: int) -> int:
        """How many rows of this version were looked at."""
        return sum(int(report.rows[0]) for report in self.told if report.version == version and len(report.rows))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("profiled")
    return mlp_artifact(folder, profiled=600), mlp_artifact(folder, seed=1, profiled=600)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ScoringWay)
async def test_a_scorer_looks_at_the_rows_of_each_version(two: tuple[Artifact, Artifact], way: ScoringWay) -> None:
    control = DriftControl(route(target(1, two[0]), target(2, two[1]), candidate=2, weight=3000, stage="r1.1", salt=7))
    embedded, sample = EmbeddedTransport(), DriftSample()
    scorer = RoutedScorer(control, embedded=embedded, trial=EmbeddedTransport(), way=way, drift=sample, seed=0)
    await scorer.start()
    await embedded.settled([each.app for each in scorer.table.routes["digits"].targets.values()])
    for each in scorer.table.routes["digits"].targets.values():
        scorer._profiles.load("digits", each)
    try:
        image = rows(200, seed=3)
        scored = await scorer.score("digits", {INPUT: image.copy()}, [f"{i}".encode() for i in range(200)], donated=True)
    finally:
        await scorer.close()
    theirs = [int((scored.versions == version).sum()) for version in (1, 2)]
    assert min(theirs) > 30
    if way is ScoringWay.ONLINE:
        assert [control.rows(1), control.rows(2)] == theirs
        assert scored.drawn == ()
    elif way is ScoringWay.BATCH:
        assert control.told == []
        assert scored.drawn == ()
    else:
        assert control.rows(1) == control.rows(2) == 0, "not before they are committed"
        assert sorted(drawn.version.number for drawn in scored.drawn) == [1, 2]
        for drawn in scored.drawn:
            assert set(scored.versions[drawn.rows]) == {drawn.version.number}
            np.testing.assert_array_equal(drawn.tensors[f"input.{INPUT}"], image[drawn.rows])
            np.testing.assert_array_equal(drawn.tensors["output.probabilities"], scored.outputs["probabilities"][drawn.rows])


SPEC = StreamSpec(
    model="m",
    input=StreamInput(topic="in", partitions=2),
    output=StreamOutput(topic="out", partitions=2),
    dead_letters=Topic(topic="dead", partitions=1),
    max_batch_rows=7,
    linger_ms=1,
    breaker_rows=20,
)


class DrawingScoring(SumScoring):
    """As a scorer that draws every row."""

    def draw(self, sample: DriftSample) -> None:
        x = np.arange(300, dtype=np.float32).reshape(100, 3)
        self.sample, self.counting = sample, VersionCounting("m", 1, make_profile(SUMS, {"x": x}, {"sum": x[:, :1]}))

    def _score(self, rows: Array, keys: Sequence[bytes | None]) -> Scored:
        scored = super()._score(rows, keys)
        every = np.arange(len(rows))
        drawn = self.sample.drawn(self.counting, {"x": rows}, scored.outputs, every, failed=scored.errors)
        return replace(scored, drawn=[drawn] if drawn is not None else [])


class FailingOnce(MemoryLog):
    """Its first commits fail."""

    failures = 3

    def commit(self, *arguments: object) -> object:  # type: ignore[override]
        if self.failures:
            self.failures -= 1
            raise Unreachable("the broker is away")
        return super().commit(*arguments)  # type: ignore[arg-type]


def fails_for_6(rows: Array) -> dict[int, HeadraceError]:
    return {int(at): EngineFailure("6") for at in np.flatnonzero(rows[:, 0] == 6)}


def test_a_streams_rows_count_once_and_when_they_are_committed() -> None:
    broker, sample = MemoryBroker(), DriftSample()
    for topic in (SPEC.input, SPEC.output, SPEC.dead_letters):
        broker.create(topic.topic, topic.partitions)
    for i in range(40):
        value = b"{" if i == 4 else b'{"x": [%d, 0, 0]}' % i
        broker.append("in", i % 2, Stored(b"k", value, (), 1000 + i))
    scoring = DrawingScoring(row_errors=fails_for_6)
    scoring.draw(sample)
    loop = Loop("s", SPEC, scoring, lambda: FailingOnce(broker, "in", "g"), drift=sample)
    thread = threading.Thread(target=loop.run)
    thread.start()
    until(lambda: sum(map(len, broker.topics["out"])) == 38, 20)
    loop.stop()
    thread.join(30)
    assert loop.counters.recoveries >= 1, "some were scored more than once"
    (report,) = sample.reports()
    reference = scoring.counting.reference
    assert [feature.name for feature in reference.features] == ["sum", "x[0]", "x[1]", "x[2]"]
    assert report.rows.tolist() == [38] * 4


def test_a_batchs_rows_count_once_their_unit_is_done(tmp_path: Path) -> None:
    write_dataset(tmp_path / "in")
    artifact = mlp_artifact(tmp_path / "artifacts", profiled=600)
    pin, control = pinned(artifact), DriftControl()
    files = sorted((tmp_path / "in").rglob("*.parquet"))
    table = pq.read_table(files[0])
    image = table["image"].to_pylist()
    image[3] = None  # quarantined
    pq.write_table(
        table.set_column(table.schema.get_field_index("image"), "image", pa.array(image, pa.list_(pa.float32()))), files[0]
    )

    def watch(record: RunRecord) -> WatchedRows:
        profile = fetch_profile(record.pinned.artifact_uri, record.pinned.digest)
        return WatchedRows(control, VersionCounting("digits", 1, profile))

    spec = spec_of(tmp_path / "in", tmp_path / "out")
    manifest = begin(
        "b", spec, pin, inline_workforce(engine_scorer, watch), as_of=None, fresh=False, watch=lambda _progress: None
    )
    assert (manifest.rows, manifest.quarantined) == (1200, 1)
    assert 0 < control.rows(1) <= 1199
    digest = control.told[0].digest
    assert {report.digest for report in control.told} == {digest}
    reference = control.told[0].reference
    assert reference is not None
    assert len(reference.features) == 795, "784 pixels, 10 probabilities, and the rows as wholes"
    total = sum(report.hits for report in control.told)
    shares = total / control.rows(1)
    np.testing.assert_allclose(shares[:-1], reference.hits[:-1] / 600, atol=0.25)
    assert shares[-1] < 0.1
