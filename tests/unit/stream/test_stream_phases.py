"""Which phase of a worker may follow which, and what moves it on."""

from __future__ import annotations

from itertools import product

import pytest

from consumers.stream.log.port import Partition
from consumers.stream.phases import ENDS, FOLLOWING, IllegalPhase, WorkerPhase, WorkerPhases
from consumers.stream.stuck import Stuck

STUCK = Stuck().after_failure("no", {Partition("in", 0): 7}, 0.0).after_failure("no", {Partition("in", 0): 7}, 0.0)


def in_phase(phase: WorkerPhase) -> WorkerPhases:
    phases = WorkerPhases()
    for each in {WorkerPhase.STARTING: (), WorkerPhase.CUT_OFF: (WorkerPhase.RUNNING, WorkerPhase.CUT_OFF)}.get(phase, (phase,)):
        phases.enter(each, "before")
    return phases


@pytest.mark.parametrize(("before", "after"), list(product(WorkerPhase, WorkerPhase)))
def test_what_may_not_follow_raises_and_changes_nothing(before: WorkerPhase, after: WorkerPhase) -> None:
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
    assert all(FOLLOWING[phase] >= ENDS for phase in WorkerPhase if phase not in ENDS)
    assert not any(FOLLOWING[phase] for phase in ENDS)
    reached = {WorkerPhase.STARTING}
    for _ in WorkerPhase:
        reached |= {after for before in reached for after in FOLLOWING[before]}
    assert reached == set(WorkerPhase)


@pytest.mark.parametrize(
    ("before", "trouble", "after"),
    [
        (WorkerPhase.STARTING, "joining", WorkerPhase.STARTING),
        (WorkerPhase.STARTING, "", WorkerPhase.RUNNING),
        (WorkerPhase.RUNNING, "silent", WorkerPhase.CUT_OFF),
        (WorkerPhase.CUT_OFF, "", WorkerPhase.RUNNING),
        (WorkerPhase.HOLDING, "silent", WorkerPhase.HOLDING),
        (WorkerPhase.HOLDING, "", WorkerPhase.HOLDING),
        (WorkerPhase.RECOVERING, "", WorkerPhase.RECOVERING),
        (WorkerPhase.RECOVERING, "silent", WorkerPhase.RECOVERING),
        (WorkerPhase.DRAINING, "silent", WorkerPhase.DRAINING),
    ],
)
def test_what_the_log_says_of_itself(before: WorkerPhase, trouble: str, after: WorkerPhase) -> None:
    phases = in_phase(before)
    phases.look(trouble)
    assert phases.phase is after
    assert phases.message == (
        trouble if after in (WorkerPhase.CUT_OFF, WorkerPhase.STARTING) else "" if after is not before else "before"
    )


@pytest.mark.parametrize(("trouble", "after"), [("", WorkerPhase.RUNNING), ("joining", WorkerPhase.CUT_OFF)])
def test_a_worker_that_recovered_runs_once_a_poll_succeeded(trouble: str, after: WorkerPhase) -> None:
    phases = in_phase(WorkerPhase.RECOVERING)
    phases.recovered()
    phases.look(trouble)
    assert (phases.phase, phases.message) == (WorkerPhase.RECOVERING, "before")
    phases.polled(trouble)
    assert (phases.phase, phases.message) == (after, trouble)


def test_a_worker_that_is_stuck_at_a_record_holds_until_that_is_committed() -> None:
    phases = in_phase(WorkerPhase.RECOVERING)
    phases.stuck = STUCK
    phases.recovered()
    assert (phases.phase, phases.message) == (WorkerPhase.HOLDING, STUCK.message)
    phases.held_no_more()
    assert phases.phase is WorkerPhase.HOLDING
    phases.unstick(Stuck())
    assert (phases.phase, phases.message) == (WorkerPhase.RUNNING, "")


def test_a_worker_that_drains_says_why_it_waits_and_drains_on() -> None:
    phases = in_phase(WorkerPhase.RUNNING)
    phases.drain()
    phases.hold("the scorer is full")
    phases.held_no_more()
    assert (phases.phase, phases.message) == (WorkerPhase.DRAINING, "the scorer is full")
