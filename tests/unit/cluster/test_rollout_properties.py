"""Random lives of a controller: whatever happens, traffic stays within bounds and what has ended stays ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.errors import HeadraceError
from cluster.ports import AppStatus
from cluster.rollout.plan import Plan
from cluster.rollout.record import LEGAL, IllegalTransition, Rollout, RolloutState
from cluster.routing.routes import WEIGHT_UNIT, RouteTable
from cluster.routing.split import to_candidate
from tests.support.brain import Brain

PLAN: dict[str, Any] = {
    "steps": [
        {"shadow": 20, "bake_s": 1},
        {"weight": 10, "bake_s": 1},
        {"weight": 60, "bake_s": 2},
        {"weight": 100, "bake_s": 1},
    ],
    "deadline_s": 30,
    "keep_warm_s": 20,
}
COUNTS = st.fixed_dictionaries({"rows": st.integers(100, 5000), "errors": st.integers(0, 100)})


class Life(RuleBasedStateMachine):
    """Everything that can happen to a controller, in any order."""

    @initialize(first_deadline=st.sampled_from(["hold", "rollback"]))
    def begin(self, first_deadline: str) -> None:
        self.brain = Brain()
        self.built = 0
        self.ended: dict[int, Rollout] = {}
        self.steps: dict[int, tuple[int, int]] = {}
        self.tables: dict[int, Any] = {}
        self.last = 0
        self.were_ready: set[str] = set()
        self.brain.apply({**PLAN, "on_deadline": first_deadline})

    @rule()
    def build(self) -> None:
        self.built += 1
        self.brain.build(self.built)

    @rule(times=st.integers(1, 4), each_s=st.sampled_from([0.1, 1.0, 10.0]))
    def tick(self, times: int, each_s: float) -> None:
        for _ in range(times):
            self.brain.tick(each_s=each_s)
            self.watch()

    @precondition(lambda self: "digits" in self.brain.controller.table.routes)
    @rule(stable=COUNTS, candidate=COUNTS)
    def score(self, stable: dict[str, int], candidate: dict[str, int]) -> None:
        route = self.brain.controller.table.routes["digits"]
        self.brain.score(route.stable, **stable)
        if route.candidate is not None:
            self.brain.score(route.candidate, **candidate)

    @rule(command=st.sampled_from(["pause", "resume", "promote", "abort"]))
    def person(self, command: str) -> None:
        self.ask(f"rollout.{command}", actor="ann")

    @precondition(lambda self: self.built > 0)
    @rule(data=st.data(), supersede=st.booleans())
    def start(self, data: st.DataObject, supersede: bool) -> None:
        version = data.draw(st.integers(1, self.built + 1))
        self.ask("rollout.start", version=version, supersede=supersede)

    @precondition(lambda self: len(self.brain.fleet.state()) > 0)
    @rule(data=st.data(), what=st.sampled_from(["fail", "sicken", "vanish", "recover"]))
    def fleet(self, data: st.DataObject, what: str) -> None:
        apps = sorted(self.brain.fleet.state())
        if not apps:
            return
        app = data.draw(st.sampled_from(apps))
        if what == "vanish":
            self.brain.fleet.vanish(app)
        elif what == "recover":
            self.brain.fleet.make_ready(app)
        elif what == "fail":
            self.brain.fleet.fail(app, "it broke")
        else:
            self.brain.fleet.sicken(app, "it is ill")

    @rule()
    def kill(self) -> None:
        self.were_ready.clear()
        self.brain.revive()

    def ask(self, command: str, **payload: Any) -> None:
        """What is refused says what to do, and changes nothing."""
        before = self.brain.store.load()
        refusal: HeadraceError | None = None
        try:
            self.brain.call(command, model="digits", **payload)
        except HeadraceError as error:
            refusal = error
        if refusal is not None:
            assert refusal.remedy
            assert self.brain.store.load() == before

    def watch(self) -> None:
        """What a scorer may count on, at every table that was published."""
        table: RouteTable = self.brain.controller.table
        assert table.number >= self.last
        self.last = table.number
        assert self.tables.setdefault(table.number, table.routes) == table.routes
        seen = self.brain.controller._seen.apps
        for route in table.routes.values():
            assert 0 <= route.weight <= WEIGHT_UNIT
            assert 0 <= route.shadow <= WEIGHT_UNIT
            assert route.stable in route.targets
            assert (route.candidate is None) == (route.weight == 0 and route.shadow == 0)
            for target in route.targets.values():
                if target.app in seen and seen[target.app].status is AppStatus.READY:
                    self.were_ready.add(target.app)
                # Stable may be away for a while, but it never gets in without having been ready.
                assert target.app in self.were_ready
                assert target.version == route.stable or seen[target.app].status is AppStatus.READY

    @invariant()
    def ended_rollouts_never_change_and_steps_never_fall(self) -> None:
        state = self.brain.store.load()
        active = [rollout for rollout in state.rollouts.values() if not rollout.ended]
        assert len(active) <= 1
        for rollout in state.rollouts.values():
            if rollout.ended:
                assert self.ended.setdefault(rollout.id, rollout) == rollout
            step, salt = self.steps.get(rollout.id, (0, rollout.salt))
            assert rollout.step >= step
            assert rollout.salt == salt
            self.steps[rollout.id] = (rollout.step, rollout.salt)


Life.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
TestLife = Life.TestCase


@given(
    salt=st.integers(0, 2**63 - 1),
    lower=st.integers(0, WEIGHT_UNIT),
    higher=st.integers(0, WEIGHT_UNIT),
    keys=st.lists(st.binary(max_size=20), max_size=50),
)
@settings(derandomize=True)
def test_raising_the_weight_never_moves_a_key_back(salt: int, lower: int, higher: int, keys: list[bytes]) -> None:
    lower, higher = sorted((lower, higher))
    random = np.random.default_rng(0)
    before = to_candidate(keys, salt=salt, weight=lower, random=random)
    after = to_candidate(keys, salt=salt, weight=higher, random=random)
    assert not (before & ~after).any()


def test_the_split_gives_each_its_share() -> None:
    keys = [f"key-{i}".encode() for i in range(20_000)]
    share = to_candidate(keys, salt=99, weight=1000, random=np.random.default_rng(0)).mean()
    assert share == pytest.approx(0.1, abs=0.01)


def _in(state: RolloutState) -> Rollout:
    rollout = Rollout(1, "digits", 1, 2, Plan(), 0.0, 0.0)
    if state is RolloutState.PENDING:
        return rollout
    if state is RolloutState.PAUSED:
        return rollout.to(RolloutState.PAUSED, 1.0)
    if state in (RolloutState.ROLLED_BACK, RolloutState.SUPERSEDED):
        return rollout.to(state, 1.0)
    warming = rollout.to(RolloutState.WARMING, 1.0)
    return warming if state is RolloutState.WARMING else warming.to(state, 2.0)


@pytest.mark.parametrize("before", RolloutState)
@pytest.mark.parametrize("after", RolloutState)
def test_only_legal_transitions_are_made(before: RolloutState, after: RolloutState) -> None:
    rollout = _in(before)
    legal = after in LEGAL[before]
    if before is RolloutState.PAUSED and after in set(RolloutState) - {
        RolloutState.PENDING,
        RolloutState.PROMOTED,
        RolloutState.ROLLED_BACK,
        RolloutState.SUPERSEDED,
    }:
        legal = False  # a pause ends where it began, in PENDING here
    if legal:
        assert rollout.to(after, 3.0).state is after
    else:
        with pytest.raises(IllegalTransition):
            rollout.to(after, 3.0)
