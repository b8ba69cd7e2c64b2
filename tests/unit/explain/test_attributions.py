"""Laws that attributions obey, on functions that are known through and through."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.support.explained import Counted, explained

RANDOM = np.random.default_rng(5)
WEIGHTS = RANDOM.normal(size=6)
OTHERS = RANDOM.normal(size=(20, 6))
ROW = RANDOM.normal(size=6)
ADDITIVE = ("shapley", "exact", "occlusion")


def linear(x):
    return x @ WEIGHTS[: x.shape[1]] + 3


def wavy(x):
    return np.sin(x[:, 0] * x[:, 1]) + x[:, 2] * np.maximum(x[:, 3], 0) + x[:, 4] ** 2


def tangled(x):
    return np.tanh(3 * x[:, :4].sum(axis=1)) + x[:, 0] * x[:, 1] * x[:, 2] + np.maximum(x[:, 3] * x[:, 4], x[:, 1])


def by_definition(function, row, others):
    """Shapley values by their definition: all orders, all other rows. float64 [d]"""
    size = len(row)
    worth = {}
    for taken in range(2**size):
        mixed = others.copy()
        chosen = [place for place in range(size) if taken >> place & 1]
        mixed[:, chosen] = row[chosen]
        worth[taken] = float(np.mean(function(mixed)))
    found = np.zeros(size)
    for order in itertools.permutations(range(size)):
        taken = 0
        for place in order:
            found[place] += worth[taken | 1 << place] - worth[taken]
            taken |= 1 << place
    return found / math.factorial(size)


@pytest.mark.parametrize("method", ADDITIVE)
def test_a_linear_model_gives_its_weights_times_the_way_from_the_mean(method):
    found = explained(linear, ROW, OTHERS, method=method)
    np.testing.assert_allclose(found.attributions["x"], WEIGHTS * (ROW - OTHERS.mean(axis=0)), atol=1e-9)
    assert found.completeness_error < 1e-9
    assert not found.too_rough, found.why
    assert found.baseline == pytest.approx(float(linear(OTHERS).mean()))
    assert found.answer == pytest.approx(float(linear(ROW[None])[0]))
    assert found.background_rows == 20
    assert np.abs(found.errors["x"]).max() < 1e-9


def test_a_linear_model_in_32_bits_is_as_right_as_these_are():
    row, others = ROW.astype(np.float32), OTHERS.astype(np.float32)

    def narrow(x):
        return x.astype(np.float32) @ WEIGHTS.astype(np.float32)

    found = explained(narrow, row.astype(np.float64), others.astype(np.float64))
    np.testing.assert_allclose(found.attributions["x"], WEIGHTS * (row - others.mean(axis=0)), atol=1e-6)


def test_exact_values_are_those_of_the_definition():
    found = explained(wavy, ROW, OTHERS, method="exact")
    np.testing.assert_allclose(found.attributions["x"], by_definition(wavy, ROW, OTHERS), atol=1e-12)
    assert found.completeness_error < 1e-12


def test_sampled_values_come_near_the_exact_ones_and_know_how_near():
    right = by_definition(tangled, ROW, OTHERS)
    apart = []
    for seed in range(30):
        found = explained(tangled, ROW, OTHERS, method="shapley", seed=seed, evaluations=2000)
        assert found.completeness_error < 1e-9
        errors = found.errors["x"]
        apart.append((found.attributions["x"] - right)[errors > 1e-9] / errors[errors > 1e-9])
    off = np.concatenate(apart)
    # As normal deviates are: two thirds within one standard error, hardly any beyond three.
    assert 0.5 < float(np.mean(np.abs(off) < 1)) < 0.9
    assert float(np.mean(np.abs(off) > 3)) < 0.03


def test_pairs_of_walks_are_exact_where_no_more_than_two_features_meet():
    def meeting(x):
        return x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] + x[:, 4]

    found = explained(meeting, ROW, OTHERS, method="shapley", evaluations=500)
    np.testing.assert_allclose(found.attributions["x"], by_definition(meeting, ROW, OTHERS), atol=1e-9)


@pytest.mark.parametrize("method", ["auto", *ADDITIVE])
def test_an_input_that_is_not_used_gets_nothing(method):
    found = explained(wavy, ROW, OTHERS, method=method)
    assert found.attributions["x"][5] == 0
    assert found.errors["x"][5] == 0


def test_equal_inputs_get_equal_parts():
    def even(x):
        return np.exp(x[:, 0] + x[:, 1]) * x[:, 2]

    others = np.array(OTHERS)
    others[:, 1] = others[:, 0]
    row = np.array([0.7, 0.7, -1.2, 0, 0, 0])
    right = explained(even, row, others, method="exact").attributions["x"]
    assert right[0] == pytest.approx(right[1], abs=1e-12)
    near = explained(even, row, others, method="shapley")
    gap = abs(near.attributions["x"][0] - near.attributions["x"][1])
    assert gap <= 4 * float(np.hypot(near.errors["x"][0], near.errors["x"][1])) + 1e-9


def test_two_seeds_agree_within_their_errors():
    for width in (6, 40):
        weights = np.random.default_rng(1).normal(size=(width, 8))
        others, row = RANDOM.normal(size=(16, width)), RANDOM.normal(size=width)

        def network(x, weights=weights):
            return np.tanh(x @ weights).sum(axis=1)

        one, two = (explained(network, row, others, method="shapley", seed=seed, evaluations=4000) for seed in (1, 2))
        apart = np.abs(one.attributions["x"] - two.attributions["x"])
        assert (apart <= 4.5 * np.hypot(one.errors["x"], two.errors["x"]) + 1e-9).all()
        assert (apart > 0).any()


def test_the_same_seed_gives_the_same_numbers():
    one, two = (explained(wavy, ROW, OTHERS, method="shapley", seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.attributions["x"], two.attributions["x"])


@pytest.mark.parametrize("batch_rows", [1, 7, 50])
def test_so_does_a_slower_version_that_is_asked_less_at_a_time(batch_rows):
    whole, slow = (explained(tangled, ROW, OTHERS, method="shapley", batch_rows=most) for most in (2048, batch_rows))
    np.testing.assert_allclose(slow.attributions["x"], whole.attributions["x"], rtol=1e-12)
    np.testing.assert_allclose(slow.errors["x"], whole.errors["x"], rtol=1e-9)


def test_features_in_a_group_are_swapped_as_one_and_share_evenly():
    groups = {"first": ("x[0]", "x[1]"), "rest": ("x[2]", "x[3]", "x[4]")}
    found = explained(wavy, ROW, OTHERS, method="exact", groups=groups)
    whole = found.groups["first"][0]
    np.testing.assert_allclose(found.attributions["x"][:2], whole / 2)
    assert found.attributions["x"].sum() == pytest.approx(found.answer - found.baseline)
    # What the two do is not shared with the others: it is a sum of its own.
    right = float(np.mean(np.sin(ROW[0] * ROW[1]) - np.sin(OTHERS[:, 0] * OTHERS[:, 1])))
    assert whole == pytest.approx(right)
    assert set(found.groups) == {"first", "rest"}


def test_walks_are_as_short_as_rows_differ():
    others = np.tile(ROW, (4, 1))
    others[:, 0] += 1
    score = Counted(wavy)
    found = explained(score, ROW, others, method="shapley")
    # One feature differs: the ends are all there is to know.
    assert score.rows == 1 + 4
    assert found.attributions["x"][0] == pytest.approx(found.answer - found.baseline)
    assert not found.too_rough


def test_the_budget_and_the_size_of_batches_are_kept():
    for method in ADDITIVE:
        score = Counted(wavy)
        found = explained(score, ROW, OTHERS, method=method, evaluations=300, batch_rows=50)
        assert score.rows - len(OTHERS) == found.evaluations
        assert found.evaluations <= 301
        assert score.largest <= 50


def test_a_small_budget_takes_fewer_other_rows_and_sums_up_all_the_same():
    found = explained(wavy, ROW, OTHERS, method="exact", evaluations=64 * 3)
    assert found.background_rows == 3
    assert found.baseline == pytest.approx(float(wavy(OTHERS[:3]).mean()))
    sampled = explained(wavy, ROW, OTHERS, method="shapley", evaluations=40)
    assert sampled.background_rows == 2
    assert sampled.completeness_error < 1e-9


def test_what_the_deadline_cuts_is_returned_with_its_error():
    times = iter(range(10_000))

    def cut(deadline_s):
        many = {"evaluations": 100_000, "batch_rows": 10}
        return explained(tangled, ROW, OTHERS, method="shapley", deadline_s=deadline_s, clock=lambda: next(times), **many)

    late, early = cut(60), cut(1)
    assert late.too_rough
    assert "deadline" in late.why
    assert late.attributions["x"].any()
    assert late.completeness_error < 1e-9
    assert early.too_rough
    assert not early.attributions["x"].any()
    assert early.completeness_error == pytest.approx(abs(early.answer - early.baseline))
    assert early.evaluations == 1


def test_occlusion_that_does_not_sum_up_says_so():
    found = explained(lambda x: x[:, 0] * x[:, 1] * 5 + x[:, 2] * x[:, 3], np.full(6, 2.0), np.zeros((3, 6)), method="occlusion")
    assert found.completeness_error == pytest.approx(24)
    assert found.too_rough
    assert "sum up to 48" in found.why
