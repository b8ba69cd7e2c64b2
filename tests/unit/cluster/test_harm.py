"""The e-detector of losses: seldom wrong, soon right, and it forgets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster.quality.built import BuiltQuality, built_loss
from cluster.quality.harm import TICK_S, TICKS_A_YEAR, HarmWatch, threshold
from cluster.quality.section import LiveLabels
from cluster.rollout.checks.labels import Loss
from cluster.rollout.sequential import highest

WRONG = LiveLabels(output="p")


def alarmed_at(losses: list[tuple[int, float]], limit: float, log_c: float, alike: int = 1) -> int | None:
    """In which tick of (labels, loss) each; None where in none."""
    watch = HarmWatch()
    for tick, (labelled, loss) in enumerate(losses):
        watch = watch.after(labelled, loss, tick * TICK_S + 1, limit, alike)
        if watch.log_evidence >= log_c:
            return tick
    return None


@pytest.mark.parametrize("kind", ["independent", "dependent", "numbers", "alike"])
def test_false_alarms_are_as_rare_as_promised(kind: str) -> None:
    """100 ticks with a bound of 1 in 10, on the edge of what is allowed: the worst that is still no harm."""
    ticks, limit, runs = 100, 0.1, 250
    log_c, rng, false = math.log(ticks / 0.1), np.random.default_rng(7), 0
    for _ in range(runs):
        if kind == "independent":
            told = [(50, float(rng.binomial(50, limit))) for _ in range(ticks)]
        elif kind == "dependent":  # how hard a tick is hangs on how the last one went
            told, last = [], 0.0
            for _ in range(ticks):
                last = float(rng.binomial(50, limit if last > 50 * limit else limit / 2))
                told.append((50, last))
        elif kind == "alike":  # ten of one caller each, all right or all wrong
            told = [(50, 10.0 * rng.binomial(5, limit)) for _ in range(ticks)]
        else:
            told = [(50, float((rng.random(50) * 2 * limit).sum())) for _ in range(ticks)]
        false += alarmed_at(told, limit, log_c, 10 if kind == "alike" else 1) is not None
    assert false <= 0.1 * runs


def test_it_is_found_about_as_soon_as_theory_says() -> None:
    limit, worse, log_c = 0.1, 0.2, threshold(0.1)
    kl = worse * math.log(worse / limit) + (1 - worse) * math.log((1 - worse) / (1 - limit))
    rng, delays = np.random.default_rng(3), []
    for _ in range(100):
        told = [(20, float(rng.binomial(20, worse))) for _ in range(200)]
        found = alarmed_at(told, limit, log_c)
        assert found is not None
        delays.append(20 * (found + 1))
    assert 0.5 * log_c / kl < np.mean(delays) < 1.5 * (log_c + math.log(7)) / kl  # some 260 labels for the first


def test_many_good_answers_do_not_hide_that_the_world_has_changed() -> None:
    rng, limit = np.random.default_rng(5), 0.1
    good = [(1000, float(rng.binomial(1000, 0.05))) for _ in range(500)]
    bad = [(100, float(rng.binomial(100, 0.3))) for _ in range(20)]
    found = alarmed_at(good + bad, limit, threshold(0.1))
    assert found is not None
    assert 500 <= found < 505
    watch = HarmWatch()
    for tick, (labelled, loss) in enumerate((good + bad)[: found + 1]):
        watch = watch.after(labelled, loss, tick * TICK_S + 1, limit)
    assert watch.run[0] == 100 * (found - 499)  # the bad ones, and no good one
    labelled, lost = sum(n for n, _ in good + bad), sum(loss for _, loss in good + bad)
    assert highest(labelled, lost, 0.05) < limit  # an interval since the start of time still says that all is well


def test_it_begins_anew_with_each_tick_and_looks_within_it() -> None:
    once = HarmWatch().after(100, 30.0, 10.0, 0.1)
    split = HarmWatch().after(40, 10.0, 10.0, 0.1).after(60, 20.0, 20.0, 0.1)
    assert once.log_evidence == pytest.approx(split.log_evidence)
    assert once.log_evidence > threshold(0.1)
    back = split.after(10, 3.0, -50 * TICK_S, 0.1)
    assert (back.tick, back.labelled, back.loss) == (split.tick, 110, 33.0)  # a clock that was set back
    later = split.after(1, 0.0, 3 * TICK_S, 0.1)
    assert (later.labelled, len(later.log_m)) == (1, 7)
    assert later.after(1, 1.0, 3 * TICK_S, 0.2) == HarmWatch(0.2, 1, 3, 1, 1.0)  # another limit is another question
    assert HarmWatch().after(50, 50.0, 1.0, 1.3).log_evidence == 0  # nothing can be worse than that


def test_so_many_false_alarms_a_year() -> None:
    assert math.exp(threshold(0.1)) == pytest.approx(10 * 2 * TICKS_A_YEAR)  # of stable and a candidate
    assert TICKS_A_YEAR * TICK_S == 365.25 * 86_400


@pytest.mark.parametrize(
    ("wanted", "built", "mean"),
    [
        (WRONG, BuiltQuality(1000, accuracy=0.93), 0.07),
        (WRONG, BuiltQuality(1000, mse=0.1), None),
        (WRONG, None, None),
        (LiveLabels(output="y", loss=Loss.SQUARED, scale=10), BuiltQuality(500, mse=4.0), 0.04),
        (LiveLabels(output="y", loss=Loss.ABSOLUTE, scale=10), BuiltQuality(500, mse=4.0), 0.2),
        (LiveLabels(output="y", loss=Loss.ABSOLUTE, scale=1), BuiltQuality(500, mse=4.0), 1.0),
        (LiveLabels(output="y", loss=Loss.ABSOLUTE, scale=1), BuiltQuality(500, accuracy=1.0), None),
    ],
)
def test_the_loss_at_build_is_told_in_the_unit_of_live_losses(
    wanted: LiveLabels, built: BuiltQuality | None, mean: float | None
) -> None:
    told = built_loss(built, wanted)
    if mean is None:
        assert told is None
    else:
        assert told is not None
        assert told.mean == pytest.approx(mean)
        assert told.mean <= told.high <= 1


def test_few_rows_at_build_are_a_wider_limit() -> None:
    few, many = (built_loss(BuiltQuality(rows, accuracy=0.95), WRONG) for rows in (50, 5000))
    assert few is not None
    assert many is not None
    assert few.high > 0.15 > 0.07 > many.high > 0.05
