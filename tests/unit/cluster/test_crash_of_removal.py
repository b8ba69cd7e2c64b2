"""A removal ends in the same state wherever the controller is killed."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.controller import Controller
from tests.support.brain import SURE, Brain
from tests.unit.cluster.test_crash import Killed, Killer


def _live(kill_at: int) -> tuple[dict[str, Any], int]:
    """One life: a model with a rollout, a stream and a batch whose job runs; all removed, with artifacts, and applied anew."""
    brain, gone = Brain(), set[str]()
    killer = Killer(kill_at)

    def revive() -> None:
        brain.controller = Controller(
            brain.store, brain.fleet, brain.streams, brain.jobs, brain.clock, killer, remove_artifact=gone.add
        )

    def go(until: Any) -> None:
        for _ in range(60):
            try:
                brain.tick(each_s=1.0)
            except Killed:
                revive()
            if brain.controller.ready and until():
                return
        pytest.fail("it never came")

    stream = {"kind": "stream", "name": "scores", "model": "digits", "spec": {}}
    batch = {"kind": "batch", "name": "nightly", "model": "digits", "spec": {}, "schedule": {"cron": "* * * * *"}}
    revive()
    brain.build(1)
    brain.apply({**SURE, "deadline_s": 1000}, feeds=[stream, batch])
    go(lambda: "digits" in brain.controller.table.routes and "scores" in brain.streams.running)
    brain.clock.now_s += 60
    go(lambda: brain.jobs.submitted)
    brain.build(2)
    go(lambda: brain.rollout()["state"] == "canary")
    brain.call("feed.delete", kind="stream", name="scores")
    brain.call("feed.delete", kind="batch", name="nightly")
    brain.call("model.delete", model="digits", artifacts=True)
    go(lambda: "digits" not in brain.store.load().models)
    assert brain.controller.table.routes == {}
    left = brain.store.load(), dict(brain.fleet.state()), dict(brain.streams.running), set(gone)
    brain.build(3)
    brain.apply(feeds=[stream])
    go(lambda: "digits" in brain.controller.table.routes and "scores" in brain.streams.running)
    state = left[0]
    final = {
        "state": (state.models, state.versions, state.rollouts, state.feeds, state.evidence, state.scorers),
        "world": left[1:],
        "jobs": {job: seen.state for job, seen in brain.jobs.state([one.job for one in brain.jobs.submitted]).items()},
        "routes": {name: route.stable for name, route in brain.controller.table.routes.items()},
        "transitions": [(e.event, e.rollout) for e in brain.store.audit("digits") if e.rollout is not None],
        "deleted": [e.detail for e in brain.store.audit("digits") if e.event == "deleted"],
    }
    return final, killer.passed


@pytest.mark.thorough
def test_killed_anywhere_nothing_stays_behind() -> None:
    expected, points = _live(kill_at=0)
    assert points > 60
    state, world = expected["state"], expected["world"]
    assert [len(part) for part in state] == [0] * 6
    assert world == ({}, {}, {"file:///artifacts/1", "file:///artifacts/2"})
    assert set(expected["jobs"].values()) == {"failed"}
    for kill_at in range(1, points + 1):
        final, _ = _live(kill_at)
        assert final == expected, f"killed at point {kill_at} of {points}"
