"""The scorer for callers without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import BadInput, NoCapacity, NotFound
from cluster.routing.routes import Target
from deployments.engines.datatypes import Array
from deployments.scoring.rows import Answer
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.transports import EmbeddedTransport
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows
from tests.support.routing import TableControl, route, target


class LoadsAtOnce(EmbeddedTransport):
    """Ready as soon as it is asked: waits for the load under way."""

    def ready(self, target: Target) -> bool:
        return True

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        await self.settled([target.app])
        return await super().score(target, tensors, timeout_s)


def started(before: set[threading.Thread]) -> list[threading.Thread]:
    """The scorer's threads that were not there before; an engine's own are let go without waiting, and end in their time."""
    return [thread for thread in threading.enumerate() if thread.name == "scorer" and thread not in before]


def test_scores_for_threads_and_ends(tmp_path: Path) -> None:
    control = TableControl(route(target(1, mlp_artifact(tmp_path)), stage="r1.1"))
    before = set(threading.enumerate())

    def make() -> RoutedScorer:
        return RoutedScorer(control, embedded=LoadsAtOnce())

    with ScorerThread(make) as scorer:
        assert scorer.signature("digits") == SIGNATURE
        with pytest.raises(NotFound):
            scorer.score("letters", {INPUT: rows(1)})
        asked: list[tuple[str, Any]] = [("letters", {INPUT: rows(1)}), ("digits", {}), ("digits", {INPUT: "text"})]
        wrong = [scorer.submit(model, tensors) for model, tensors in asked]
        assert [type(future.exception()) for future in wrong] == [NotFound, BadInput, AttributeError]
        scored = scorer.score("digits", {INPUT: rows(5)}, version=1)
        futures = [scorer.submit("digits", {INPUT: rows(5)}) for _ in range(8)]
        for future in futures:
            np.testing.assert_array_equal(future.result().outputs[OUTPUT], scored.outputs[OUTPUT])
    assert control.counts(1).rows == 40
    assert started(before) == []
    with pytest.raises(NoCapacity, match="not running"):
        scorer.submit("digits", {INPUT: rows(1)})
    scorer.close()


def test_a_scorer_that_cannot_be_made_leaves_no_thread() -> None:
    def make() -> RoutedScorer:
        raise RuntimeError("no")

    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="no"):
        ScorerThread(make).start()
    assert started(before) == []
