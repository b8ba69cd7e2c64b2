"""The pure half of drift: what a profile allows, detectors over counts, sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.drift_rows import (
    CountedRows,
    Dependence,
    Rows,
    as_they_are,
    blurred,
    digits_to_alarm,
    false_alarms,
    inverted,
    rows_to_alarm,
    shifted,
)
from cluster.drift.counts import EDGE_ROWS, DriftReference, WatchedFeature
from cluster.drift.detectors import STEPS, TICKS_A_YEAR, AlarmBudget, Detectors
from cluster.drift.kinds import KINDS, RateKind
from cluster.drift.sizes import js, psi
from cluster.drift.tolerance import known_within, tolerated
from tests.support.drift import NumberRows, normal


def one_rate(rows: int, hits: int, kind: RateKind, picked: int, cut: float = math.nan, features: int = 1) -> DriftReference:
    """So many features, each with one rate."""
    each = np.ones(features, np.int64)
    return DriftReference(
        features=tuple(WatchedFeature(f"x{place}", False, rows) for place in range(features)),
        feature=np.arange(features),
        kind=each * KINDS.index(kind),
        cut=np.full(features, cut),
        category=("",) * features,
        hits=each * hits,
        picked=each * picked,
        histogram=np.ones((features, 16), np.int64),
    )


def test_budgets_add_up_to_what_was_declared() -> None:
    budget = AlarmBudget.over(1000, 0.1)
    assert budget.delta + 1000 / budget.threshold == pytest.approx(0.1)
    year = AlarmBudget.a_year(0.1)
    assert 2 * (year.delta + TICKS_A_YEAR / year.threshold) == pytest.approx(0.1)
    assert AlarmBudget.a_year(12.0).delta <= 0.05, "much of a large budget is left to the profile, which is drawn once"


def test_what_is_known_of_a_share_grows_with_the_profile_and_is_least_where_the_rows_chose_what_is_counted() -> None:
    widths = []
    for rows, picked in ((10_000, 0), (1_000, 0), (1_000, 1), (1_000, 20), (50, 20)):
        low, high = known_within(one_rate(rows, rows // 10, RateKind.UNSEEN, picked), 0.05)
        assert low[0] < 0.1 < high[0]
        widths.append(float(high[0] - low[0]))
    assert widths == sorted(widths)
    low, high = known_within(one_rate(20, 0, RateKind.UNSEEN, 20), 0.05)
    assert (low[0], high[0]) == (0.0, 1.0), "as many names as rows say nothing of what has none"


def test_a_rare_thing_is_known_closely_and_cuts_are_known_together() -> None:
    _, rare = known_within(one_rate(10_000, 0, RateKind.MISSING, 0), 0.05)
    assert rare[0] < 0.001
    _, one = known_within(one_rate(10_000, 5_000, RateKind.INPUT, EDGE_ROWS, cut=1.0), 0.05)
    _, many = known_within(one_rate(10_000, 5_000, RateKind.INPUT, EDGE_ROWS, cut=1.0, features=784), 0.05)
    assert one[0] == pytest.approx(0.5 + math.sqrt(math.log(6 / 0.05) / 20_000))
    assert many[0] == pytest.approx(0.5 + math.sqrt(math.log(6 * 784 / 0.05) / 20_000))


def test_the_interval_of_a_share_holds_the_share_that_rows_came_from() -> None:
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(400):
        hits = int(rng.binomial(300, 0.03))
        low, high = known_within(one_rate(300, hits, RateKind.MISSING, 0), 0.1)
        wrong += not low[0] <= 0.03 <= high[0]
    assert wrong <= 40


def test_the_margin_is_so_many_points_at_a_half_and_fewer_at_the_ends() -> None:
    for hits, points in ((5_000, 0.05), (100, 0.02)):
        reference = one_rate(10_000, hits, RateKind.MISSING, 0)
        (_, near), (_, far) = tolerated(reference, 0.0, 0.05), tolerated(reference, 0.05, 0.05)
        assert 0 < float(far[0] - near[0]) <= points + 1e-9


def test_no_number_of_ticks_without_rows_or_of_rows_about_which_nothing_is_known_raises_an_alarm() -> None:
    nothing_known = one_rate(20, 0, RateKind.UNSEEN, 20)
    detectors = Detectors(nothing_known, 0.0, AlarmBudget(10.0, 0.05))
    rows, hits = np.array([1]), np.array([1])
    assert not any(detectors.tick(rows, hits) for _ in range(100))
    known = Detectors(one_rate(1000, 10, RateKind.MISSING, 0), 0.0, AlarmBudget(10.0, 0.05))
    assert not any(known.tick(np.array([0]), np.array([0])) for _ in range(1000))


def test_each_feature_that_is_far_off_is_named_and_many_that_are_a_little_off_are_told_together() -> None:
    rng = np.random.default_rng(5)
    watched = NumberRows(normal(rng, 5000, 400))
    far = Detectors(watched.reference, 0.0, AlarmBudget.over(1000, 0.1))
    rows, hits, _ = watched.counted(normal(rng, 2000, 400, (*[2.0] * 3, 0.0)))
    assert sorted((alarmed.feature, alarmed.together) for alarmed in far.tick(rows, hits)) == [
        (place, False) for place in range(3)
    ]
    assert far.tick(rows, hits) == [], "a feature that has its alarm raised another"
    far.clear(1)
    assert [alarmed.feature for alarmed in far.tick(rows, hits)] == [1]
    alike = one_rate(10_000, 1_000, RateKind.MISSING, 0, features=400)
    many = Detectors(alike, 0.0, AlarmBudget.over(1000, 0.1))
    rows, hits = np.full(400, 100), np.full(400, 16)
    found = next(found for _ in range(1000) if (found := many.tick(rows, hits)))
    assert all(alarmed.together for alarmed in found)


def test_rows_that_may_be_alike_count_as_fewer() -> None:
    reference = one_rate(10_000, 1_000, RateKind.MISSING, 0)
    taken = []
    for alike in (1, 10):
        detectors = Detectors(reference, 0.0, AlarmBudget.over(1000, 0.1), alike)
        ticks = 1
        while not detectors.tick(np.array([10]), np.array([3])):
            ticks += 1
        taken.append(ticks)
    assert taken[0] * 5 < taken[1] < taken[0] * 20
    assert detectors.count == 2 * len(STEPS)


def test_an_array_that_came_from_elsewhere_is_not_written_to() -> None:
    reference = one_rate(10_000, 1_000, RateKind.MISSING, 0)
    rows, hits = np.array([10]), np.array([3])
    for array in (rows, hits, reference.hits):
        array.setflags(write=False)
    Detectors(replace(reference), 0.0, AlarmBudget.over(1000, 0.1)).tick(rows, hits)


@pytest.mark.parametrize("rows", [50, 2000])
def test_features_that_never_change_or_are_never_there_raise_no_alarm_until_they_do(rows: int) -> None:
    rng = np.random.default_rng(9)

    def drawn(rows: int) -> Rows:
        found = rng.normal(size=(rows, 4)).astype(np.float32)
        found[:, 1], found[:, 2], found[rng.random(rows) < 0.3, 3] = 7, np.nan, np.nan
        return found

    counted = CountedRows(drawn(rows))
    detectors = Detectors(counted.reference, 0.0, AlarmBudget.over(1000, 0.1))
    assert not any(detectors.tick(counts.rows, counts.hits) for _ in range(200) if (counts := counted.counts(drawn(50))))
    changed = drawn(200)
    changed[:, 1], changed[:, 2], changed[:, 3] = 8, 0, np.nan
    counts = counted.counts(changed)
    found = {alarmed.feature for _ in range(3) for alarmed in detectors.tick(counts.rows, counts.hits)}
    assert found >= {1, 2, 3}
    assert 0 not in found


def test_sizes_are_nothing_for_the_same_shares_and_grow_with_the_change() -> None:
    before = np.array([100, 200, 700])
    assert float(js(before, 10 * before)) == pytest.approx(0, abs=1e-6)
    assert float(psi(before, 10 * before)) < 0.001
    little, much = np.array([120, 220, 660]), np.array([700, 200, 100])
    assert 0 < float(js(before, little)) < float(js(before, much)) < 1
    assert 0 < float(psi(before, little)) < 0.1 < 0.25 < float(psi(before, much))
    assert float(js(np.array([1, 0]), np.array([0, 1]))) == pytest.approx(1)


@pytest.mark.parametrize(("spoil", "within"), [(shifted, 600), (blurred, 400), (inverted, 300)])
def test_digits_that_are_spoiled_are_found(spoil: object, within: int) -> None:
    assert digits_to_alarm(spoil, within) is not None  # type: ignore[arg-type]


def test_digits_as_they_are_raise_no_alarm() -> None:
    assert digits_to_alarm(as_they_are, 20_000) is None


@pytest.mark.proof
@pytest.mark.parametrize("dependence", Dependence)
@pytest.mark.parametrize(("features", "runs"), [(1, 20), (10, 20), (784, 3)])
def test_at_most_one_run_in_ten_alarms_where_nothing_changes(features: int, runs: int, dependence: Dependence) -> None:
    assert false_alarms(features, dependence, runs) <= 0.1


@pytest.mark.proof
@pytest.mark.parametrize("features", [1, 10, 784])
def test_a_change_is_found_about_as_soon_as_it_can_be(features: int) -> None:
    taken, known = rows_to_alarm(features, 1.0, 9)
    assert taken <= 1.5 * known
