"""Which phase of a worker may follow which, and what moves it on."""

from __future__ import annotations

from itertools import product

import pytest

from consumers.stream.log.port import Partition
from consumers.stream.phases import ENDS, FOLLOWING, IllegalPhase, Phase, Phases
from consumers.stream.stuck import Stuck

STUCK = Stuck().after_failure("no", {Partition("in", 0): 7}, 0.0).after_failure("no", {Partition("in", 0): 7}, 0.0)


def in_phase(phase: Phase) -> Phases:
    phases = Phases()
    for each in {Phase.STARTING: (), Phase.CUT_OFF: (Phase.RUNNING, Phase.CUT_OFF)}.get(phase, (phase,)):
        phases.enter(each, "before")
    return phases


@pytest.mark.parametrize(("before", "after"), list(product(Phase, Phase)))
def test_what_may_not_follow_raises_and_changes_nothing(before: Phase, after: Phase) -> None:
    phases = in_phase(before)
    if after is before or after in FOLLOWING[before]:
        phases.enter(after, "why")
        assert (phases.phase, phases.message) == (after, "why")
    else:
        message = phases.message
        with pytest.raises(IllegalPhase, match=f"{after} can't follow {before}"):
            phases.enter(after, "why")
        assert (phases.phase, phases.message) == (before, message)


def test_every_phase_has_an_end_and_none_follows_it() -> None:
    assert all(FOLLOWING[phase] >= ENDS for phase in Phase if phase not in ENDS)
    assert not any(FOLLOWING[phase] for phase in ENDS)
    reached = {Phase.STARTING}
    for _ in Phase:
        reached |= {after for before in reached for after in FOLLOWING[before]}
    assert reached == set(Phase)


@pytest.mark.parametrize(
    ("before", "trouble", "after"),
    [
        (Phase.STARTING, "joining", Phase.STARTING),
        (Phase.STARTING, "", Phase.RUNNING),
        (Phase.RUNNING, "silent", Phase.CUT_OFF),
        (Phase.CUT_OFF, "", Phase.RUNNING),
        (Phase.HOLDING, "silent", Phase.HOLDING),
        (Phase.HOLDING, "", Phase.HOLDING),
        (Phase.RECOVERING, "", Phase.RECOVERING),
        (Phase.RECOVERING, "silent", Phase.RECOVERING),
        (Phase.DRAINING, "silent", Phase.DRAINING),
    ],
)
def test_what_the_log_says_of_itself(before: Phase, trouble: str, after: Phase) -> None:
    phases = in_phase(before)
    phases.look(trouble)
    assert phases.phase is after
    assert phases.message == (trouble if after in (Phase.CUT_OFF, Phase.STARTING) else "" if after is not before else "before")


@pytest.mark.parametrize(("trouble", "after"), [("", Phase.RUNNING), ("joining", Phase.CUT_OFF)])
def test_a_worker_that_recovered_runs_once_a_poll_succeeded(trouble: str, after: Phase) -> None:
    phases = in_phase(Phase.RECOVERING)
    phases.recovered()
    phases.look(trouble)
    assert (phases.phase, phases.message) == (Phase.RECOVERING, "before")
    phases.polled(trouble)
    assert (phases.phase, phases.message) == (after, trouble)


def test_a_worker_that_is_stuck_at_a_record_holds_until_that_is_committed() -> None:
    phases = in_phase(Phase.RECOVERING)
    phases.stuck = STUCK
    phases.recovered()
    assert (phases.phase, phases.message) == (Phase.HOLDING, STUCK.told)
    phases.held_no_more()
    assert phases.phase is Phase.HOLDING
    phases.unstick(Stuck())
    assert (phases.phase, phases.message) == (Phase.RUNNING, "")


def test_a_worker_that_drains_says_why_it_waits_and_drains_on() -> None:
    phases = in_phase(Phase.RUNNING)
    phases.drain()
    phases.hold("the scorer is full")
    phases.held_no_more()
    assert (phases.phase, phases.message) == (Phase.DRAINING, "the scorer is full")
