"""Batch rows through a scorer that is shared with online traffic."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import NoCapacity
from consumers.batch.score.remote_rows import RemoteScorer
from deployments.engines.datatypes import Array
from deployments.scoring.port import Scored
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from tests.support.batch_parts import pinned, scores
from tests.support.models import INPUT, OUTPUT, failing_artifact, mlp_artifact, rows
from tests.support.routing import TableControl, route, target
from tests.unit.scoring.test_scorer_thread import LoadsAtOnce


def test_rows_come_back_in_order_and_bad_ones_are_named(tmp_path: Path) -> None:
    artifact = failing_artifact(tmp_path)
    control = TableControl(route(target(1, artifact)))
    image = rows(100)
    image[[3, 50, 99], 0] = 0.9
    image[7, 5] = np.nan
    with ScorerThread(lambda: RoutedScorer(control, embedded=LoadsAtOnce())) as thread:
        outputs, bad = RemoteScorer(thread, "digits", 1, rows_per_call=16).score({INPUT: image}, 100)
    assert sorted(bad) == [3, 7, 50, 99]
    good = np.delete(np.arange(100), sorted(bad))
    np.testing.assert_allclose(outputs[OUTPUT], scores(pinned(artifact), image[good]), atol=1e-6)
    assert control.counts(1).rows == 0  # pinned: no evidence


class Busy(ScorerThread):
    """Has no capacity for the first tries."""

    def __init__(self, refusals: int) -> None:
        super().__init__(lambda: RoutedScorer(TableControl()))
        self.refusals = refusals
        self.asked = 0

    def submit(self, model: str, tensors: Mapping[str, Array], *_: Any, **__: Any) -> Future[Scored]:
        answer: Future[Scored] = Future()
        self.asked += 1
        if self.asked <= self.refusals:
            answer.set_exception(NoCapacity("full"))
        else:
            count = len(tensors[INPUT])
            answer.set_result(Scored({OUTPUT: tensors[INPUT][:, :10]}, np.ones(count, np.int32), {}))
        return answer


def test_it_waits_for_capacity_and_then_gives_up() -> None:
    image = rows(10)
    patient = RemoteScorer(Busy(3), "digits", 1, rows_per_call=4, calls=2, pauses_s=(0, 0, 0))
    np.testing.assert_array_equal(patient.score({INPUT: image}, 10)[0][OUTPUT], image[:, :10])
    with pytest.raises(NoCapacity):
        RemoteScorer(Busy(100), "digits", 1, rows_per_call=4, calls=2, pauses_s=(0, 0)).score({INPUT: image}, 10)


def test_every_row_bad(tmp_path: Path) -> None:
    control = TableControl(route(target(1, mlp_artifact(tmp_path))))
    with ScorerThread(lambda: RoutedScorer(control, embedded=LoadsAtOnce())) as thread:
        outputs, bad = RemoteScorer(thread, "digits", 1, rows_per_call=4).score({INPUT: np.full((6, 784), np.nan, np.float32)}, 6)
    assert len(bad) == 6
    assert outputs[OUTPUT].shape == (0, 10)
