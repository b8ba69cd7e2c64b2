"""Which rows are drawn: a bounded number a second, evenly, whatever the traffic."""

from __future__ import annotations

import numpy as np

from deployments.drift.drawing import RowDraw
from tests.support.clock import Clock


def test_all_rows_of_little_traffic_are_drawn() -> None:
    clock = Clock(0.0)
    draw = RowDraw(256, 1, clock)
    for _ in range(50):
        clock.now_s += 0.1
        found = draw.of(3)
        assert found is not None
        assert found.tolist() == [0, 1, 2]


def test_of_much_traffic_a_bounded_number_a_second_is_drawn_evenly() -> None:
    clock = Clock(0.0)
    draw = RowDraw(256, 2, clock)
    drawn = np.zeros(500, np.int64)
    seconds = np.zeros(60, np.int64)
    for batch in range(6000):
        clock.now_s = batch / 100
        found = draw.of(500)
        if found is not None:
            drawn[found] += 1
            seconds[batch // 100] += len(found)
    assert seconds.max() <= 256
    assert seconds[1:].min() > 150
    # By thirds of a batch: each row has the same chance.
    thirds = drawn[:498].reshape(3, 166).sum(axis=1)
    assert abs(thirds - thirds.mean()).max() < 5 * np.sqrt(thirds.mean())


def test_a_burst_is_drawn_from_evenly_and_not_from_its_beginning_alone() -> None:
    clock = Clock(0.0)
    found = RowDraw(256, 3, clock).of(100_000)
    assert found is not None
    assert 150 < len(found) <= 256
    assert found[len(found) // 2] > 30_000
    assert (np.diff(found) > 0).all()


def test_rows_one_by_one_are_drawn_at_the_same_rate() -> None:
    clock = Clock(0.0)
    draw = RowDraw(16, 4, clock)
    found = 0
    for row in range(30_000):
        clock.now_s = row / 1000
        places = draw.of(1)
        if places is not None:
            assert places.tolist() == [0]
            found += 1
    assert 300 < found <= 16 * 30
