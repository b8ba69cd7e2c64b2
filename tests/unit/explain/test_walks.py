"""Orders that spread turns evenly, and the rows that walks pass."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.explain.explaining import explain_rows
from deployments.explain.features import feature_groups
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, ExplainScale, Explanation
from deployments.explain.mixing import Evaluator, Mixture, mixture
from deployments.explain.shapley.orders import SPREAD_ROUNDS, spread_keys, walks_of
from deployments.explain.shapley.steps import StepPlan, found_on
from deployments.explain.shapley.tally import PairTally
from deployments.explain.targets import ExplainTarget, ScoreKind

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="pixels", datatype=Datatype.FP32, shape=(-1, 2, 3)),
        TensorSpec(name="word", datatype=Datatype.BYTES, shape=(-1, 1)),
        TensorSpec(name="counts", datatype=Datatype.INT64, shape=(-1, 2)),
    ),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP64, shape=(-1,)),),
)
SHAPES = {"pixels": (2, 3), "word": (1,), "counts": (2,)}
# Groups across inputs, of several values, and single values.
GROUPS = {"corner": ("pixels[0,0]", "counts[1]", "pixels[1,2]"), "word": ("word",)}


def drawn(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "pixels": random.normal(size=(5, 2, 3)).astype(np.float32),
        "word": np.array([[b"w%d" % (seed * 10 + row)] for row in range(5)], np.object_),
        "counts": random.integers(0, 9, (5, 2)),
    }


def mixed(others: dict[str, np.ndarray]) -> Mixture:
    row = {name: value[:1] for name, value in drawn(1).items()}
    return mixture(SIGNATURE, row, others, SHAPES, feature_groups(SIGNATURE, SHAPES, GROUPS, None))


def weight(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Tells every mixture of values from every other."""
    pixels = tensors["pixels"].reshape(len(tensors["pixels"]), -1).astype(np.float64) @ np.arange(1, 7) ** 2
    words = np.array([float(word[1:]) for word in tensors["word"][:, 0].tolist()])
    return np.asarray(np.sin(pixels) * (1 + words) + np.cos(tensors["counts"].astype(np.float64) @ [3.0, 7.0]) * pixels)


@pytest.mark.parametrize("batch_rows", [1, 3, 8, 1000])
def test_a_walk_finds_what_rows_mixed_one_by_one_tell(batch_rows: int) -> None:
    others = drawn(2)
    others["counts"][3] = drawn(1)["counts"][0]  # a walk that is shorter than the rest
    mixing, sizes = mixed(others), []

    def score(tensors):
        sizes.append(len(tensors["word"]))
        return {"y": weight(tensors)}

    target = ExplainTarget("y", ScoreKind.NUMBERS, ExplainScale.RAW, 0, None)
    evaluator = Evaluator(score, target, batch_rows, 1000, None, lambda: 0.0)
    which = np.array([0, 3, 4])
    walks = walks_of(np.random.default_rng(3).random((3, len(mixing.groups))), mixing.differing(), which)
    everything = np.ones((1, len(mixing.groups)), np.bool_)
    answer = float(weight(mixing.mixed(everything, np.array([0])))[0])
    baselines = weight(others)
    found = found_on(mixing, evaluator, StepPlan.of(walks), answer, baselines)
    assert found is not None
    assert max(sizes) <= batch_rows
    assert evaluator.evaluations == sum(sizes) == int((walks.length - 1).sum())
    for walk, order in enumerate(walks.order):
        mask = np.zeros((1, len(order)), np.bool_)
        seen = [baselines[walks.which[walk]]]
        for group in order:
            mask[0, group] = True
            seen.append(weight(mixing.mixed(mask, walks.which[walk : walk + 1]))[0])
        np.testing.assert_allclose(found[walk, order], np.diff(seen), atol=1e-9)


def test_keys_of_a_group_fill_each_others_gaps_and_are_independent_of_the_others() -> None:
    keys = np.array(list(islice(spread_keys(np.random.default_rng(1), 3, 500), SPREAD_ROUNDS)))
    assert keys.shape == (SPREAD_ROUNDS, 3, 500)
    assert ((keys >= 0) & (keys <= 1)).all()
    folded = 2 * np.minimum(keys, 1 - keys)
    for rounds in (1, 2, 4, 16, SPREAD_ROUNDS):
        cells = np.sort((folded[:rounds] * rounds).astype(int), axis=0)
        assert (cells == np.arange(rounds)[:, None, None]).all()
    assert (np.sort((folded[0] * 3).astype(int), axis=0) == np.arange(3)[:, None]).all()  # and over the rows at first
    for turn in keys:
        assert float(np.abs(np.sort(turn, axis=1) - np.linspace(0, 1, 500)).max()) < 0.12  # uniform: 1.95 / sqrt(500) is 0.087
    between = np.corrcoef(keys.reshape(-1, 500).T)[np.triu_indices(500, 1)]
    assert float(np.abs(between.mean())) < 0.01
    assert float(between.std()) == pytest.approx(1 / np.sqrt(3 * SPREAD_ROUNDS), rel=0.1)


def test_a_long_sampling_begins_to_spread_again() -> None:
    keys = np.array(list(islice(spread_keys(np.random.default_rng(1), 1, 50), 2 * SPREAD_ROUNDS)))
    second = 2 * np.minimum(keys, 1 - keys)[SPREAD_ROUNDS:]
    assert (np.sort((second * SPREAD_ROUNDS).astype(int), axis=0) == np.arange(SPREAD_ROUNDS)[:, None, None]).all()
    assert not np.array_equal(keys[:SPREAD_ROUNDS], keys[SPREAD_ROUNDS:])


def test_as_many_rounds_are_wanted_as_bring_the_error_down_and_no_more() -> None:
    rows, random = np.arange(50), np.random.default_rng(7)
    tally = PairTally.of(50, 2)
    assert tally.rounds_wanted() == 2
    tally.add(rows, 5 + random.normal(size=(4, 50, 2)))
    # The error of a mean over 50 rows of 4 rounds is 1 / sqrt(200), and is to be 1 % of 5: 8 rounds.
    assert tally.errors() == pytest.approx(np.full(2, 1 / np.sqrt(200)), rel=0.2)
    wanted = tally.rounds_wanted()
    assert 6 <= wanted <= 11
    tally.add(rows, 5 + random.normal(size=(2 * wanted, 50, 2)))
    assert tally.rounds_wanted() == 4 + 2 * wanted  # those that were made
    sure = PairTally.of(1, 2)
    sure.add(np.array([0]), np.ones((2, 1, 2)))
    assert (sure.errors() == 0).all()
    assert sure.rounds_wanted() == 2


@pytest.mark.parametrize("evaluations", [200, 20_000])
def test_rows_that_share_their_plans_are_explained_as_each_alone(evaluations: int) -> None:
    rows, others = drawn(1), drawn(2)
    rows["counts"][2:4] = others["counts"][1]  # of two rows other groups differ

    def explained(some: dict[str, np.ndarray]) -> list[Explanation]:
        options = ExplainOptions(ExplainMethod.SHAPLEY, evaluations=evaluations, seed=7)
        return explain_rows(lambda tensors: {"y": weight(tensors)}, some, SIGNATURE, Background(others), options)

    together = explained(rows)
    for place, found in enumerate(together):
        (alone,) = explained({name: value[place : place + 1] for name, value in rows.items()})
        assert alone.evaluations == found.evaluations
        for name, values in alone.attributions.items():
            np.testing.assert_array_equal(values, found.attributions[name])
