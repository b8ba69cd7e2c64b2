"""The controller raises at every point of every tick, as if killed there; the next one ends where an undisturbed one ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.controller import Point
from tests.support.brain import Brain

PLAN: dict[str, Any] = {
    "steps": [{"shadow": 50, "bake_s": 1}, {"weight": 10, "bake_s": 1}, {"weight": 100, "bake_s": 1}],
    "checks": {"error_rate": {"margin": 0.02}, "disagreement": {"margin": 0.05}},
    "deadline_s": 1000,
    "keep_warm_s": 5,
}


class Killed(BaseException):
    """The process is gone: no handler of the code under test may see it."""


class Killer:
    """Raises at the nth point that is passed, once."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0

    def __call__(self, _: Point) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise Killed


def _live(kill_at: int) -> tuple[dict[str, Any], int]:
    """One life: a first version, a good one, one that fails to load, one with errors, a pause, an instant way back."""
    brain = Brain()
    killer = Killer(kill_at)
    brain.revive(killer)

    def go(until: Callable[[], bool], **evidence: dict[str, int]) -> None:
        seen = 0
        for _ in range(40):
            route = brain.controller.table.routes.get("digits")
            if route is not None and route.candidate is not None:
                for version, counts in evidence.items():
                    brain.score(int(version[1:]), **counts)
            try:
                brain.tick(each_s=1.0)
            except Killed:
                brain.revive(killer)
            number = brain.controller.table.number
            if brain.controller.ready and number > seen:
                # No split that was not saved.
                assert number == brain.store.load().table
                seen = number
            if brain.controller.ready and until():
                return
        pytest.fail("it never came")

    def rollout_is(state: str) -> Callable[[], bool]:
        return lambda: brain.rollout() is not None and brain.rollout()["state"] == state

    brain.build(1)
    brain.apply(PLAN, {"scaling": {"mode": "manual", "replicas": 2}}, feeds=[_stream()])
    go(lambda: "digits" in brain.controller.table.routes and "scores" in brain.streams.running)
    brain.build(2)
    go(rollout_is("shadow"))
    brain.call("rollout.pause", model="digits")
    brain.call("rollout.resume", model="digits")
    good = {"rows": 2000, "compared": 2000}
    go(rollout_is("promoted"), v1={"rows": 2000}, v2=good)
    brain.fleet.doom("digits--v3", "no such operator")
    brain.build(3)
    go(rollout_is("rolled_back"))
    brain.build(4)
    go(rollout_is("canary"), v2={"rows": 2000}, v4=good)
    go(rollout_is("rolled_back"), v2={"rows": 2000}, v4={"rows": 200, "errors": 50})
    brain.call("rollout.start", model="digits", version=1, plan={"steps": [{"weight": 100, "bake_s": 0}], "keep_warm_s": 5})
    go(rollout_is("promoted"))
    brain.call("model.scale", model="digits", replicas=3)
    go(lambda: set(brain.fleet.state()) == {"digits--v1"} and brain.store.load().models["digits"].replicas == 3)
    state = brain.store.load()
    final = {
        "routes": brain.controller.table.routes,
        "rollouts": [(r.id, r.stable, r.candidate, r.state, r.step) for r in state.rollouts.values()],
        "apps": {name: (app.status, app.target_replicas) for name, app in brain.fleet.state().items()},
        "streams": brain.streams.running,
        "evidence": state.evidence,
        "transitions": [(e.event, e.rollout) for e in brain.store.audit("digits") if e.rollout is not None],
    }
    return final, killer.passed


def _stream() -> dict[str, Any]:
    return {"kind": "stream", "name": "scores", "model": "digits", "spec": {"topic": "in"}}


@pytest.mark.thorough
def test_killed_anywhere_it_ends_in_the_same_state() -> None:
    expected, points = _live(kill_at=0)
    assert points > 100
    for kill_at in range(1, points + 1):
        final, _ = _live(kill_at)
        assert final == expected, f"killed at point {kill_at} of {points}"
