"""From rows that are scored to an alarm that a person reads: a scorer, an artifact's own profile, and a controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.control_plane import Told
from cluster.drift.counts import DriftReport
from deployments.drift.version_counting import MOST_ROWS_A_SECOND
from deployments.scoring.scorer import RoutedScorer
from deployments.transport.transports import EmbeddedTransport
from tests.support.brain import Brain
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.routing import TableControl, route, target


class ControlOfBrain(TableControl):
    """Hands what it is told of rows to a controller."""

    def __init__(self, brain: Brain, *routes: object) -> None:
        super().__init__(*routes)  # type: ignore[arg-type]
        self._brain = brain

    async def push(self, told: Told) -> None:
        if isinstance(told, DriftReport):
            self._brain.controller.push(told)


@pytest.mark.anyio
async def test_rows_unlike_those_of_the_build_become_an_alarm_and_others_do_not(tmp_path: Path) -> None:
    artifact, brain = mlp_artifact(tmp_path, profiled=600), Brain()
    brain.serve_first()
    control = ControlOfBrain(brain, route(target(1, artifact)))
    for shift, least in ((0.0, 0), (2.0, 784)):
        embedded = EmbeddedTransport()
        scorer = RoutedScorer(control, embedded=embedded, trial=EmbeddedTransport(), seed=0)
        await scorer.start()
        await embedded.settled(["digits--v1"])
        scorer._profiles.load("digits", scorer.table.routes["digits"].targets[1])
        image = rows(MOST_ROWS_A_SECOND, seed=3) + shift
        try:
            await scorer.score("digits", {INPUT: image}, [b""] * len(image))
        finally:
            await scorer.close()
        brain.tick(each_s=11)
        (model,) = brain.call("drift.status", model="digits")["models"]
        assert model["alarmed"] >= least
        assert model["alarmed"] == 0 or shift
        (version,) = model["versions"]
        assert version["profile_rows"] == 600
    assert model["versions"][0]["rows"] == 2 * MOST_ROWS_A_SECOND
