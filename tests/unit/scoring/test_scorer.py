"""The routed scorer over engines in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadInput, EngineFailure, NoCapacity, NotFound
from cluster.fleet.serving import Serving
from cluster.rollout.evidence import Counts
from cluster.routing.routes import EMPTY, RouteTable, Stamp, Target
from cluster.routing.split import to_candidate
from deployments.artifacts.manifest import Manifest
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from deployments.observe.traces.span import Span
from deployments.scoring.rows import Answer
from deployments.scoring.scorer import RoutedScorer
from deployments.transport.engine_process import EngineGone, start_engine_process
from deployments.transport.transports import EmbeddedTransport, Transport
from tests.support.models import INPUT, OUTPUT, TEXT_SIGNATURE, failing_artifact, mlp_artifact, rows, text_artifact
from tests.support.routing import TableControl, route, target

pytestmark = pytest.mark.anyio

Artifact = tuple[str, str, Manifest]
KEYS = [f"key {i}".encode() for i in range(400)]
EMBEDDED = Serving(transport="embedded", max_batch_rows=128)
REMOTE = Serving(max_batch_rows=400)


class Nowhere:
    """A transport without replicas; it counts who asks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.error = error or NoCapacity("no replica")

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """Nothing to keep."""

    def ready(self, target: Target) -> bool:
        return True

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        self.asked.append(target.app)
        raise self.error

    async def close(self) -> None:
        """Nothing to close."""


class Flaky(Nowhere):
    """Answers with each row's first feature; fails some of the first call's rows."""

    def __init__(self, fails: list[int]) -> None:
        super().__init__()
        self.fails = fails

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        self.asked.append(target.app)
        failed, self.fails = {row: EngineFailure("once") for row in self.fails}, []
        return Answer({OUTPUT: np.repeat(tensors[INPUT][:, :1], 10, axis=1)}, dict(failed))


class NotReady(Nowhere):
    """One whose process has not started."""

    def ready(self, target: Target) -> bool:
        return False


class Gone(Nowhere):
    """One whose process ends under every call."""

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        self.asked.append(target.app)
        raise EngineGone("the engine's process ended")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return mlp_artifact(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return mlp_artifact(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return failing_artifact(tmp_path_factory.mktemp("failing"))


@asynccontextmanager
async def scoring(
    control: TableControl, remote: Nowhere | None = None, trial: Transport | None = None
) -> AsyncIterator[RoutedScorer]:
    embedded = EmbeddedTransport()
    scorer = RoutedScorer(control, remote or Nowhere(), embedded, trial or NotReady(), seed=0)
    await scorer.start()
    await embedded.settled([t.app for r in scorer.table.routes.values() for t in r.targets.values()])
    try:
        yield scorer
    finally:
        await scorer.close()


def words(version: int, artifact: Artifact) -> Target:
    return replace(target(version, artifact, "words"), signature=TEXT_SIGNATURE)


def expected(artifact: Artifact, image: Array) -> Array:
    return load_engine(Path(artifact[0])).score({INPUT: image})[OUTPUT]


async def test_one_version_scores_everything_in_order(good: Artifact) -> None:
    async with scoring(TableControl(route(target(1, good), serving=EMBEDDED))) as scorer:
        image = rows(300)
        scored = await scorer.score("digits", {INPUT: image})
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected(good, image), atol=1e-5)
    assert scored.versions.tolist() == [1] * 300
    assert scored.versions.dtype == np.int32
    assert scored.errors == {}


@pytest.mark.parametrize("donated", [False, True])
async def test_keys_are_split_and_rows_come_back_in_order(good: Artifact, other: Artifact, donated: bool) -> None:
    split = route(target(1, good), target(2, other), candidate=2, weight=3000, stage="r1.1", salt=7)
    control = TableControl(split)
    async with scoring(control) as scorer:
        image = rows(400)
        given = image.copy()
        scored = await scorer.score("digits", {INPUT: given}, KEYS, donated=donated)
    assert np.array_equal(given, image) != donated
    theirs = to_candidate(KEYS, salt=7, weight=3000, random=np.random.default_rng())
    assert scored.versions.tolist() == np.where(theirs, 2, 1).tolist()
    want = np.where(theirs[:, None], expected(other, image), expected(good, image))
    np.testing.assert_allclose(scored.outputs[OUTPUT], want, atol=1e-5)
    assert control.counts(2) == Counts(rows=int(theirs.sum()), calls=1)
    assert control.counts(1) == Counts(rows=int((~theirs).sum()), calls=1)


@pytest.mark.parametrize("donated", [False, True])
async def test_stable_answers_what_the_candidate_fails(good: Artifact, failing: Artifact, donated: bool) -> None:
    control = TableControl(route(target(1, good), target(2, failing), candidate=2, weight=5000, stage="r1.1", salt=7))
    async with scoring(control) as scorer:
        image = rows(400)
        image[::10, 0] = 0.9
        scored = await scorer.score("digits", {INPUT: image.copy()}, KEYS, donated=donated)
    assert scored.errors == {}
    theirs = to_candidate(KEYS, salt=7, weight=5000, random=np.random.default_rng())
    dark = np.zeros(400, dtype=bool)
    dark[::10] = True
    assert scored.versions.tolist() == np.where(theirs & ~dark, 2, 1).tolist()
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected(good, image), atol=1e-5)
    assert control.counts(2) == Counts(rows=int(theirs.sum()), errors=int((theirs & dark).sum()), calls=1)
    assert control.counts(1) == Counts(rows=int((~theirs).sum()), calls=1)


async def test_in_a_trace_what_stable_answers_instead_stands_below_the_fallback(tmp_path: Path) -> None:
    nowhere = (str(tmp_path / "nowhere"), "0" * 64, None)
    split = route(target(1, nowhere), target(2, nowhere), candidate=2, weight=10_000, stage="r1.1", serving=REMOTE)
    call = Span("call", trace_id=1)
    async with scoring(TableControl(split), Flaky(fails=[2, 7])) as scorer:
        with call:
            scored = await scorer.score("digits", {INPUT: rows(40)})
    assert scored.errors == {}
    asked, instead = call.children
    (stable,) = instead.children
    assert [span.name for span in (asked, instead, stable)] == ["ask digits--v2", "fallback", "ask digits--v1"]
    assert [(span.attributes["headrace.candidate"], span.attributes["headrace.rows"]) for span in (asked, stable)] == [
        (True, 40),
        (False, 2),
    ]
    assert instead.attributes == {"headrace.rows": 2}
    assert asked.attributes["headrace.failed_rows"] == 2
    assert {span.trace_id for span in (asked, instead, stable)} == {1}
    assert asked.ended_ns <= instead.began_ns <= stable.began_ns <= stable.ended_ns <= instead.ended_ns


async def test_without_fallback_the_candidates_failures_are_told(good: Artifact, failing: Artifact) -> None:
    control = TableControl(route(target(1, good), target(2, failing), candidate=2, weight=10_000, stage="r1.1", fallback=False))
    async with scoring(control) as scorer:
        image = rows(40)
        image[3, 0] = 0.9
        scored = await scorer.score("digits", {INPUT: image})
    assert list(scored.errors) == [3]
    assert isinstance(scored.errors[3], EngineFailure)
    assert scored.versions.tolist() == [2] * 40


@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "no-fallback"])
async def test_no_client_can_make_evidence_of_text_that_is_none(tmp_path: Path, fallback: bool) -> None:
    versions = [words(1, text_artifact(tmp_path)), words(2, text_artifact(tmp_path, unknown=2.0))]
    control = TableControl(route(*versions, model="words", candidate=2, weight=5000, stage="r1.1", salt=7, fallback=fallback))
    text = np.array([[b"yes", b"\xff\xfe" if i % 2 else b"no"] for i in range(400)], np.object_)
    async with scoring(control) as scorer:
        scored = await scorer.score("words", {"text": text}, KEYS)
        for _ in range(5):
            alone = await scorer.score("words", {"text": text[1:2]}, [KEYS[1]])
    assert sorted(scored.errors) == list(range(1, 400, 2))
    for error in (scored.errors[1], alone.errors[0]):
        assert type(error) is BadInput
        assert "input 'text', element [1] of the row, is not UTF-8" in str(error)
    theirs = to_candidate(KEYS, salt=7, weight=5000, random=np.random.default_rng())
    assert control.counts(2) == Counts(rows=int(theirs[::2].sum()))
    assert control.counts(1) == Counts(rows=int((~theirs[::2]).sum()))


@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "no-fallback"])
async def test_rows_that_stable_fails_too_are_no_evidence(failing: Artifact, fallback: bool) -> None:
    versions = target(1, failing), target(2, failing)
    control = TableControl(route(*versions, candidate=2, weight=5000, stage="r1.1", salt=7, fallback=fallback))
    image, dark = rows(400), np.zeros(400, dtype=bool)
    dark[::10] = True
    image[dark, 0] = 0.9
    async with scoring(control) as scorer:
        scored = await scorer.score("digits", {INPUT: image}, KEYS)
    assert sorted(scored.errors) == np.flatnonzero(dark).tolist()
    theirs = to_candidate(KEYS, salt=7, weight=5000, random=np.random.default_rng())
    assert control.counts(2) == Counts(rows=int((theirs & ~dark).sum()))
    assert control.counts(1) == Counts(rows=int((~theirs & ~dark).sum()))


async def test_what_stable_fails_once_is_asked_again_and_counts(good: Artifact) -> None:
    """As it does for a candidate: both are judged by one rule."""
    control = TableControl(route(target(1, good), target(2, good), candidate=2, weight=0, stage="r1.1", serving=REMOTE))
    flaky = Flaky(fails=[2, 7])
    async with scoring(control, flaky) as scorer:
        scored = await scorer.score("digits", {INPUT: rows(40)})
    assert scored.errors == {}
    assert flaky.asked == ["digits--v1", "digits--v1"]
    np.testing.assert_array_equal(scored.outputs[OUTPUT][:, 0], rows(40)[:, 0])
    assert control.counts(1) == Counts(rows=40, errors=2, calls=1)


async def test_in_shadow_rows_that_stable_fails_too_are_no_evidence(good: Artifact, failing: Artifact) -> None:
    for stable, counted in ((failing, Counts(rows=39, compared=39)), (good, Counts(rows=40, errors=1, compared=39))):
        shadowed = route(target(1, stable), target(2, failing), candidate=2, shadow=10_000, stage="r1.1")
        control = TableControl(shadowed)
        async with scoring(control) as scorer:
            image = rows(40)
            image[3, 0] = 0.9
            await scorer.score("digits", {INPUT: image})
            while control.counts(2).rows == 0:
                await scorer._push.flush()
                await asyncio.sleep(0.01)
        assert control.counts(2) == counted


async def test_a_candidate_that_cannot_be_asked_costs_users_nothing(good: Artifact, tmp_path: Path) -> None:
    broken = target(2, (str(tmp_path / "nowhere"), "0" * 64, None))
    remote = Nowhere()
    control = TableControl(route(target(1, good), broken, candidate=2, weight=10_000, stage="r1.1"))
    async with scoring(control, remote) as scorer:
        scored = await scorer.score("digits", {INPUT: rows(40)})
    assert remote.asked == ["digits--v2"]
    assert scored.errors == {}
    assert scored.versions.tolist() == [1] * 40
    assert control.counts(2) == Counts(missed=40)  # not its fault: whether it goes on is judged apart
    assert control.counts(1) == Counts()


@pytest.mark.parametrize("error", [EngineFailure("it broke"), ZeroDivisionError("a defect")], ids=["failure", "defect"])
@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "no-fallback"])
async def test_whatever_is_wrong_with_a_version_counts(tmp_path: Path, error: Exception, fallback: bool) -> None:
    nowhere = (str(tmp_path / "nowhere"), "0" * 64, None)
    split = route(
        target(1, nowhere), target(2, nowhere), candidate=2, weight=3000, stage="r1.1", salt=7, fallback=fallback, serving=REMOTE
    )
    control = TableControl(split)
    async with scoring(control, Nowhere(error)) as scorer:
        with pytest.raises(type(error), match=str(error)):
            await scorer.score("digits", {INPUT: rows(400)}, KEYS)
    theirs = int(to_candidate(KEYS, salt=7, weight=3000, random=np.random.default_rng()).sum())
    assert control.counts(2) == Counts(rows=theirs, errors=theirs, calls=1)
    assert control.counts(1) == Counts(rows=400 - theirs, errors=400 - theirs, calls=1)


async def test_only_the_rows_at_fault_carry_an_error(failing: Artifact) -> None:
    async with scoring(TableControl(route(target(1, failing), serving=EMBEDDED))) as scorer:
        image = rows(300)
        image[[5, 6, 299], 0] = 0.9
        scored = await scorer.score("digits", {INPUT: image})
    assert sorted(scored.errors) == [5, 6, 299]
    assert all(isinstance(error, EngineFailure) for error in scored.errors.values())
    assert not scored.outputs[OUTPUT][[5, 6, 299]].any()
    kept = np.delete(np.arange(300), [5, 6, 299])
    np.testing.assert_allclose(scored.outputs[OUTPUT][kept], expected(failing, image[kept]), atol=1e-5)


async def test_rows_with_nan_are_refused_alone(good: Artifact) -> None:
    control = TableControl(route(target(1, good), stage="r1.1"))
    async with scoring(control) as scorer:
        image = rows(8)
        image[2, 700] = np.nan
        scored = await scorer.score("digits", {INPUT: image})
        nothing = await scorer.score("digits", {INPUT: image[2:3]})
        empty = await scorer.score("digits", {INPUT: image[:0]})
    assert list(scored.errors) == [2]
    assert isinstance(scored.errors[2], BadInput)
    assert not scored.outputs[OUTPUT][2].any()
    np.testing.assert_allclose(scored.outputs[OUTPUT][3:], expected(good, image[3:]), atol=1e-5)
    assert list(nothing.errors) == [0]
    assert nothing.outputs[OUTPUT].shape == (1, 10)
    assert empty.outputs[OUTPUT].shape == (0, 10)
    assert control.counts(1) == Counts(rows=7, calls=1)


async def test_a_model_may_take_nan(good: Artifact) -> None:
    control = TableControl(route(target(1, good), serving=Serving(transport="embedded", refuse_nan=False)))
    async with scoring(control) as scorer:
        scored = await scorer.score("digits", {INPUT: np.full((1, 784), np.nan, np.float32)})
    assert scored.errors == {}


async def test_pins_a_version_without_evidence(good: Artifact, other: Artifact) -> None:
    control = TableControl(route(target(1, good), target(2, other), candidate=2, weight=0, shadow=10_000, stage="r1.1"))
    async with scoring(control) as scorer:
        image = rows(20)
        scored = await scorer.score("digits", {INPUT: image}, version=2)
        with pytest.raises(NotFound, match="version 9"):
            await scorer.score("digits", {INPUT: image}, version=9)
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected(other, image), atol=1e-5)
    assert scored.versions.tolist() == [2] * 20
    assert control.batches == {}


async def test_shadow_compares_and_never_answers(good: Artifact, other: Artifact) -> None:
    control = TableControl(route(target(1, good), target(2, other), candidate=2, shadow=5000, stage="r1.1", salt=7))
    image = rows(400)
    async with scoring(control) as scorer:
        image_sent = image.copy()
        scored = await scorer.score("digits", {INPUT: image_sent}, KEYS)
        image_sent[:] = 0  # a caller may use its arrays again
        while control.counts(2).compared == 0:
            await scorer._push.flush()
            await asyncio.sleep(0.01)
    assert scored.versions.tolist() == [1] * 400
    shadowed = to_candidate(KEYS, salt=7, weight=5000, random=np.random.default_rng())
    differ = expected(good, image).argmax(axis=1) != expected(other, image).argmax(axis=1)
    told = control.counts(2)
    assert (told.rows, told.compared, told.disagreed) == (shadowed.sum(), shadowed.sum(), (shadowed & differ).sum())
    assert told.disagreed > 0
    assert control.counts(1) == Counts(rows=400, calls=1)


async def test_slow_calls_are_counted(good: Artifact) -> None:
    control = TableControl(route(target(1, good), stage="r1.1", slow_ms=0.0))
    async with scoring(control) as scorer:
        await scorer.score("digits", {INPUT: rows(4)})
    assert control.counts(1) == Counts(rows=4, calls=1, slow=1)


class Counting(Nowhere):
    """Answers; counts how many calls are under way at a time, and refuses from one of them on."""

    def __init__(self, refuses_from: int = 1_000) -> None:
        super().__init__()
        self.refuses_from = refuses_from
        self.under_way = self.most = 0

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        self.asked.append(target.app)
        number = len(self.asked)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if number >= self.refuses_from:
            raise NoCapacity("the queue is full")
        return Answer({OUTPUT: np.repeat(tensors[INPUT][:, :1], 10, axis=1)})


async def test_large_calls_are_fed_in_turn_within_what_replicas_bear(good: Artifact) -> None:
    remote, control = Counting(), TableControl(route(target(1, good), serving=Serving(max_batch_rows=4)))
    async with scoring(control, remote) as scorer:
        image = rows(401)
        answers = await asyncio.gather(*[scorer.score("digits", {INPUT: image}) for _ in range(3)])
    for scored in answers:
        assert scored.errors == {}
        np.testing.assert_array_equal(scored.outputs[OUTPUT][:, 0], image[:, 0])
    assert len(remote.asked) == 3 * 101
    assert remote.most == 8  # two for each of the four replicas that it may have


async def test_once_a_piece_is_refused_no_other_is_asked(good: Artifact) -> None:
    remote, control = Counting(refuses_from=10), TableControl(route(target(1, good), serving=Serving(max_batch_rows=4)))
    async with scoring(control, remote) as scorer:
        with pytest.raises(NoCapacity, match="the queue is full"):
            await scorer.score("digits", {INPUT: rows(400)})
        assert remote.under_way == 0
        assert len(remote.asked) < 20


async def test_a_caller_in_haste_makes_no_evidence(good: Artifact) -> None:
    """Else any client could have a version rolled back: by deadlines that nothing can keep."""
    for fallback in (True, False):
        control = TableControl(
            route(target(1, good), target(2, good), candidate=2, weight=10_000, stage="r1.1", serving=REMOTE, fallback=fallback)
        )
        async with scoring(control, Nowhere(NoCapacity("too late"))) as scorer:
            with pytest.raises(NoCapacity):
                await scorer.score("digits", {INPUT: rows(1)}, timeout_s=0.001)
            with pytest.raises(NoCapacity):
                await scorer.score("digits", {INPUT: rows(3)}, timeout_s=9.0)
        # Where stable is away as well, nothing is told of the candidate.
        assert control.counts(2) == (Counts() if fallback else Counts(missed=3))


async def test_a_slow_call_counts_as_slow_also_where_its_caller_gave_up(good: Artifact) -> None:
    class Never(Nowhere):
        async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
            self.asked.append(target.app)
            await asyncio.sleep(timeout_s)
            raise NoCapacity("too late")

    remote, control = Never(), TableControl(route(target(1, good), serving=Serving(), stage="r1.1", slow_ms=1.0))
    async with scoring(control, remote) as scorer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await scorer.score("digits", {INPUT: rows(3)})
    assert control.counts(1) == Counts(rows=0, calls=1, slow=1)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "'image' is missing"),
        ({"picture": rows(2)}, "unknown input 'picture'"),
        ({INPUT: rows(2).astype(np.float64)}, "float64, not FP32"),
        ({INPUT: rows(2)[:, :9]}, r"shape \[2, 9\], not \[-1, 784\]"),
        ({INPUT: rows(2)[0]}, r"shape \[784\]"),
    ],
)
async def test_a_wrong_tensor_is_the_whole_calls_error(good: Artifact, tensors: dict[str, Array], words: str) -> None:
    async with scoring(TableControl(route(target(1, good)))) as scorer:
        with pytest.raises(BadInput, match=words):
            await scorer.score("digits", tensors)


async def test_an_unknown_model_and_a_wrong_number_of_keys(good: Artifact) -> None:
    async with scoring(TableControl(route(target(1, good)))) as scorer:
        with pytest.raises(NotFound, match="served now: digits"):
            await scorer.score("letters", {INPUT: rows(1)})
        with pytest.raises(BadInput, match="1 keys for 2 rows"):
            await scorer.score("digits", {INPUT: rows(2)}, [b"one"])


async def test_scores_with_the_last_table_and_keeps_evidence_while_the_controller_is_away(good: Artifact) -> None:
    control = TableControl(route(target(1, good), stage="r1.1"))
    async with scoring(control) as scorer:
        control.away = True
        await scorer.score("digits", {INPUT: rows(3)})
        await scorer._push.flush()
        await scorer.score("digits", {INPUT: rows(4)})
        await scorer._push.flush()
        assert control.batches == {}
        control.away = False
        await scorer._push.flush()
        assert control.counts(1) == Counts(rows=3, calls=1)
    assert control.counts(1) == Counts(rows=7, calls=2)


async def test_a_candidate_on_trial_is_not_loaded_in_this_process(good: Artifact, other: Artifact) -> None:
    targets = target(1, good), target(2, other)
    control = TableControl(route(*targets, serving=EMBEDDED, candidate=2, weight=5000, stage="r1.1", salt=7, trial=True))
    remote = Nowhere()
    async with scoring(control, remote) as scorer:
        scored = await scorer.score("digits", {INPUT: rows(400)}, KEYS)
        assert remote.asked[0] == "digits--v2"  # as the replicas there are
        assert set(scored.versions.tolist()) == {1}  # all of them answered by stable, here
        control.publish(route(*targets, serving=EMBEDDED, candidate=2, weight=5000, stage="r1.2", salt=7))
        while set((await scorer.score("digits", {INPUT: rows(400)}, KEYS)).versions.tolist()) != {1, 2}:
            await asyncio.sleep(0.01)


async def test_a_candidate_on_trial_is_scored_in_a_process_of_its_own(good: Artifact, other: Artifact) -> None:
    targets = target(1, good), target(2, other)
    control = TableControl(route(*targets, serving=EMBEDDED, candidate=2, weight=5000, stage="r1.1", salt=7, trial=True))
    trial, remote = EmbeddedTransport(start_engine_process), Nowhere()
    async with scoring(control, remote, trial) as scorer:
        await trial.settled(["digits--v2"])
        assert trial.ready(targets[1])
        image = rows(400)
        scored = await scorer.score("digits", {INPUT: image}, KEYS)
        theirs = scored.versions == 2
        assert 0 < theirs.sum() < 400
        np.testing.assert_allclose(scored.outputs[OUTPUT][theirs], expected(other, image)[theirs], atol=1e-5)
        assert remote.asked == []
        assert not scorer._embedded.ready(targets[1])
        control.publish(route(*targets, serving=EMBEDDED, candidate=2, weight=5000, stage="r1.2", salt=7))
        while trial.ready(targets[1]):
            await asyncio.sleep(0.01)


async def test_where_the_process_of_a_trial_ends_the_replicas_are_asked(good: Artifact, other: Artifact) -> None:
    targets = target(1, good), target(2, other)
    control = TableControl(route(*targets, serving=EMBEDDED, candidate=2, weight=5000, stage="r1.1", salt=7, trial=True))
    trial, remote = Gone(), Nowhere()
    async with scoring(control, remote, trial) as scorer:
        scored = await scorer.score("digits", {INPUT: rows(400)}, KEYS)
        assert set(trial.asked) == set(remote.asked) == {"digits--v2"}
        assert set(scored.versions.tolist()) == {1}
        assert scored.errors == {}


async def test_follows_the_table(good: Artifact, other: Artifact) -> None:
    control = TableControl(route(target(1, good)))
    async with scoring(control) as scorer:
        control.publish(route(target(2, other)))
        while scorer.table.number < 2:
            await asyncio.sleep(0)
        await scorer._embedded.settled(["digits--v2"])
        scored = await scorer.score("digits", {INPUT: rows(2)})
        assert scored.versions.tolist() == [2, 2]
        assert not scorer._embedded.ready(target(1, good))


async def test_stable_without_replicas_is_no_capacity(tmp_path: Path) -> None:
    control = TableControl(route(target(1, (str(tmp_path / "nowhere"), "0" * 64, None)), stage="r1.1"))
    async with scoring(control) as scorer:
        with pytest.raises(NoCapacity):
            await scorer.score("digits", {INPUT: rows(1)})
    assert control.counts(1) == Counts(missed=1)


async def test_a_model_that_is_scaled_to_nothing_is_told_so_at_once(good: Artifact) -> None:
    remote = Nowhere()
    control = TableControl(route(target(1, good), asleep=True, serving=REMOTE))
    async with scoring(control, remote) as scorer:
        with pytest.raises(NoCapacity, match=r"no replicas.*headrace scale digits 1"):
            await scorer.score("digits", {INPUT: rows(1)})
    assert remote.asked == []


async def test_where_callers_hold_the_model_it_answers_without_replicas(good: Artifact) -> None:
    async with scoring(TableControl(route(target(1, good), asleep=True))) as scorer:
        assert (await scorer.score("digits", {INPUT: rows(1)})).errors == {}


async def test_starts_at_once_where_nothing_is_served_yet() -> None:
    async with scoring(TableControl()) as scorer:
        with pytest.raises(NotFound, match="apply a Model document"):
            await scorer.score("digits", {INPUT: rows(1)})


async def test_a_defect_in_the_background_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TableControl):
        async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
            if after >= EMPTY.stamp:
                raise ZeroDivisionError
            return await super().routes(after, timeout_s)

    async with scoring(Broken()):
        while "background task" not in caplog.text:
            await asyncio.sleep(0)
    assert "ZeroDivisionError" in caplog.text
