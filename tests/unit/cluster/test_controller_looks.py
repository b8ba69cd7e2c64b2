"""When the controller looks at the world, and when its last look will do."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.ports import AppState
from cluster.rollout.illness import LASTS_S
from deployments.serving.fake_fleet import FakeFleet
from tests.support.brain import SURE, Brain


class WatchedFleet(FakeFleet):
    """Counts how often it is looked at."""

    looks = 0

    def state(self) -> Mapping[str, AppState]:
        self.looks += 1
        return super().state()


def test_a_rollout_that_waits_looks_at_a_still_world_now_and_then_and_counts_all_along() -> None:
    fleet = WatchedFleet()
    brain = Brain(fleet=fleet)
    brain.revive(look_every_s=1.75)
    brain.serve_first({**SURE, "steps": [{"weight": 10, "bake_s": 60}, {"weight": 100, "bake_s": 5}]})
    brain.build(2)
    brain.tick(8)
    assert brain.controller.table.routes["digits"].weight == 1000
    before = fleet.looks
    for _ in range(40):
        brain.score(2, rows=10)
        brain.tick()
    assert fleet.looks - before == 10
    assert brain.rollout()["checks"][0]["observed"] == 400
    fleet.sicken("digits--v2", "gone")
    brain.tick(4)
    assert brain.rollout()["state"] == "canary"  # it may recover
    brain.tick(each_s=LASTS_S)
    assert brain.rollout()["state"] == "rolled_back"


def test_a_clock_that_was_set_back_keeps_nobody_from_looking() -> None:
    fleet = WatchedFleet()
    brain = Brain(fleet=fleet)
    brain.revive(look_every_s=1.75)
    brain.serve_first()
    brain.tick(8)
    brain.clock.now_s -= 86_400
    before = fleet.looks
    brain.tick(8)
    assert fleet.looks - before == 2


def test_what_is_more_than_to_wait_is_decided_on_a_fresh_look() -> None:
    brain = Brain()
    brain.revive(look_every_s=1e9)
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    brain.score(1, rows=9000)
    brain.score(2, rows=1000)
    brain.tick(4)
    brain.fleet.sicken("digits--v2", "gone")
    brain.tick()
    assert brain.rollout()["state"] == "canary"  # unseen: nothing was due
    brain.tick(8)  # the step's bake time is over
    brain.tick(each_s=LASTS_S)
    assert brain.rollout()["state"] == "rolled_back"
    assert "unhealthy" in brain.rollout()["reason"]


def test_a_command_is_followed_on_a_fresh_look() -> None:
    brain = Brain()
    brain.serve_first()
    brain.revive(look_every_s=1e9)
    brain.tick(2)
    brain.fleet.vanish("digits--v1")
    brain.tick(2)
    assert brain.fleet.deployed == ["digits--v1"]
    brain.build(2)
    brain.tick()
    assert brain.fleet.deployed == ["digits--v1", "digits--v1", "digits--v2"]
