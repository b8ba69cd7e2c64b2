"""What one process counts of rows, and how its numbered reports go out."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.drift.counts import DriftReport
from cluster.errors import BadInput, NotFound
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.control.table_watch import DriftPush
from deployments.drift.drift_sample import DriftSample, of_rows
from deployments.drift.version_counting import VersionCounting
from deployments.profiles.making import make_profile
from tests.support.routing import TableControl

X, Y = (TensorSpec(name=name, datatype=Datatype.FP64, shape=(-1,)) for name in "xy")
SIGNATURE = Signature(inputs=(X,), outputs=(Y,))
VALUES = np.arange(1000.0)
pytestmark = pytest.mark.anyio


def version(model: str = "m") -> VersionCounting:
    return VersionCounting(model, 1, make_profile(SIGNATURE, {"x": VALUES}, {"y": -VALUES}))


class PickyControl(TableControl):
    """Knows no reference before it comes along."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[DriftReport] = []
        self.refuses = False

    async def push(self, told: object) -> None:
        self._reach()
        assert isinstance(told, DriftReport)
        if self.refuses:
            raise BadInput("counts that do not fit")
        if told.reference is None and not self.taken:
            raise NotFound("no reference")
        self.taken.append(told)


def test_rows_are_found_where_they_lie_and_failed_ones_left_out() -> None:
    sample, counting = DriftSample(), version()
    rows = np.arange(5)
    order = np.array([3, 1, 0, 2, 4])  # which row of the caller's lies at each place
    inputs, outputs = {"x": np.array([30.0, 10, 0, 20, 40])}, {"y": -10.0 * rows}
    drawn = sample.drawn(counting, inputs, outputs, rows, failed=[1], order=order)
    assert drawn is not None
    assert drawn.rows.tolist() == [0, 2, 3, 4]
    assert drawn.tensors["input.x"][:, 0].tolist() == [0, 20, 30, 40]
    assert drawn.tensors["output.y"][:, 0].tolist() == [0, -20, -30, -40]
    first, second = of_rows([drawn], 0, 3, np.array([0])), of_rows([drawn], 3, 5, rows[:0])
    assert [each.rows.tolist() for each in (*first, *second)] == [[2], [3, 4]]
    assert second[0].tensors["input.x"][:, 0].tolist() == [30, 40]
    assert of_rows([drawn], 1, 2, rows[:0]) == []


def test_copies_stay_as_they_were() -> None:
    sample, counting = DriftSample(), version()
    given = {"x": VALUES[:3].copy()}
    drawn = sample.drawn(counting, given, {"y": VALUES[:3]}, np.arange(3))
    given["x"][:] = -1
    assert drawn is not None
    assert drawn.tensors["input.x"][:, 0].tolist() == [0, 1, 2]


async def test_each_report_is_sent_until_it_is_taken_and_counts_go_on_meanwhile() -> None:
    sample, counting, control = DriftSample(), version(), PickyControl()
    push = DriftPush(control, sample)

    def score(rows: int) -> None:
        drawn = sample.drawn(counting, {"x": VALUES[:rows]}, {"y": -VALUES[:rows]}, np.arange(rows))
        assert drawn is not None
        sample.put(drawn)

    score(10)
    control.away = True
    await push.flush()
    score(7)
    await push.flush()
    control.away = False
    await push.flush()
    await push.flush()
    await push.flush()
    assert [(report.sequence, report.rows.tolist()) for report in control.taken] == [(1, [10] * 3), (2, [7] * 3)]
    assert control.taken[0].reference == counting.reference
    assert control.taken[1].reference is None
    assert len({report.source for report in control.taken}) == 1


async def test_what_the_controller_refuses_is_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    sample, counting, control = DriftSample(), version(), PickyControl()
    control.refuses = True
    drawn = sample.drawn(counting, {"x": VALUES[:5]}, {"y": VALUES[:5]}, np.arange(5))
    assert drawn is not None
    sample.put(drawn)
    await DriftPush(control, sample).flush()
    assert sample.reports() == []
    assert "drift of m is not watched" in caplog.text


async def test_a_version_without_a_profile_is_told_of_and_costs_nothing_else() -> None:
    sample, bare = DriftSample(), VersionCounting("bare", 2, None)
    assert sample.drawn(bare, {"x": VALUES}, {"y": VALUES}, np.arange(1000)) is None
    (report,) = sample.reports()
    assert (report.model, report.version, report.rows.tolist()) == ("bare", 2, [])
    sample.delivered(report)
    assert sample.reports() == [], "it has not answered since"


def test_what_nobody_counts_is_bounded_and_versions_that_went_are_forgotten() -> None:
    sample, counting = DriftSample(), version()
    drawn = sample.drawn(counting, {"x": VALUES[:200]}, {"y": VALUES[:200]}, np.arange(200))
    assert drawn is not None
    for _ in range(1000):
        sample.put(drawn)
    (report,) = sample.reports()
    assert 2000 < report.rows[0] < 2500
    sample.delivered(report)
    sample.keep([version("other")])
    sample.put(drawn)
    assert sample.reports() == []
