"""Calls that met no replica of the candidate: no evidence against it, but it may not go on missing them."""

from __future__ import annotations

import pytest

from cluster.errors import BadArtifact, BadInput, Conflict, EngineFailure, NoCapacity, NotFound, TooLarge, Unreachable
from cluster.rollout.blame import Blame, blame
from cluster.rollout.callers import Both
from cluster.rollout.evidence import Counts
from cluster.rollout.illness import LASTS_S
from cluster.rollout.misses import QUIET_S, WINDOW_S, Misses, after_counts, missing
from tests.support.brain import SURE, Brain

NONE = Counts()
LONG = {**SURE, "steps": [{"weight": 10, "bake_s": 3600}, {"weight": 100, "bake_s": 5}], "deadline_s": 7200}


@pytest.mark.parametrize(
    ("failures", "whose"),
    [
        ((BadInput("no number"), TooLarge("too many rows")), Blame.ROW),
        ((NoCapacity("the queue is full"), Unreachable("away")), Blame.MOMENT),
        ((EngineFailure("no"), BadArtifact("damaged"), NotFound("none"), Conflict("busy"), ZeroDivisionError()), Blame.VERSION),
    ],
)
def test_every_kind_of_failure_is_somebodys_fault(failures: tuple[Exception, ...], whose: Blame) -> None:
    assert [blame(failure) for failure in failures] == [whose] * len(failures)


class Watched:
    """A candidate whose windows are looked at twice a second."""

    def __init__(self) -> None:
        self.now_s, self.misses = 1000.0, Misses()
        self.ours, self.base = Counts(), Counts()
        self.look()

    def look(self, stage: str = "r1.1") -> None:
        self.misses = after_counts(self.misses, stage, Both(self.ours, self.base), margin=0.01, now_s=self.now_s)

    def window(self, ours: Counts = NONE, base: Counts = NONE, *, times: int = 1) -> None:
        """In so many windows, that is counted at their beginning."""
        for _ in range(times):
            self.ours, self.base = self.ours + ours, self.base + base
            for _ in range(round(2 * WINDOW_S)):
                self.now_s += 0.5
                self.look()


def test_what_lasts_is_told_with_its_counts() -> None:
    seen = Watched()
    seen.window(Counts(rows=2, missed=8), Counts(rows=90), times=int(LASTS_S / WINDOW_S) - 1)
    assert (seen.misses.since_s, missing(seen.misses, 0)) == (1000.0, "")
    seen.window(Counts(rows=2, missed=8), Counts(rows=90))
    assert missing(seen.misses, 0) == "for 30 s: 8 of 10 rows met no replica that took them, stable 0 of 90 rows"
    assert missing(seen.misses, LASTS_S) == ""  # it took as long to start: it may take twice that to recover


def test_one_that_is_back_is_well_at_once() -> None:
    seen = Watched()
    seen.window(Counts(missed=10), times=5)
    seen.window(Counts(rows=1000, missed=10))
    assert seen.misses.since_s is None
    seen.window(Counts(missed=10))
    assert missing(seen.misses, 0) == ""


@pytest.mark.parametrize("both", [Counts(missed=10), Counts(rows=5, missed=5)])
def test_what_stable_misses_as_well_says_nothing(both: Counts) -> None:
    seen = Watched()
    seen.window(both, both, times=100)
    assert seen.misses.since_s is None


def test_a_window_without_calls_says_nothing_and_a_long_silence_forgets() -> None:
    seen = Watched()
    seen.window(Counts(missed=10))
    seen.window(times=2)
    assert missing(seen.misses, 0) == ""
    seen.window(times=int(QUIET_S / WINDOW_S))
    assert seen.misses.since_s is None
    seen.window(Counts(missed=1))
    assert missing(seen.misses, 0) == ""


def test_another_step_counts_from_nothing_but_the_illness_stays() -> None:
    seen = Watched()
    seen.window(Counts(rows=900, missed=100), times=3)
    seen.ours = seen.base = Counts()
    seen.look("r1.2")
    assert (seen.misses.since_s, seen.misses.until_s, seen.misses.ours) == (1000.0, 1015.0, (0, 0))
    seen.ours = Counts(missed=1)
    for _ in range(round(2 * WINDOW_S)):
        seen.now_s += 0.5
        seen.look("r1.2")
    assert seen.misses.words.startswith("1 of 1 rows")


@pytest.fixture
def canary() -> Brain:
    brain = Brain()
    brain.serve_first(LONG)
    brain.build(2)
    brain.tick(4)
    assert brain.rollout()["state"] == "canary"
    return brain


def test_callers_that_met_no_replica_for_twenty_seconds_roll_nothing_back(canary: Brain) -> None:
    for _ in range(20):
        canary.score(1, rows=900, calls=90)
        canary.score(2, missed=100)
        canary.tick(2)
    for _ in range(20):
        canary.score(1, rows=900, calls=90)
        canary.score(2, rows=100, calls=10)
        canary.tick(2)
    assert (canary.rollout()["state"], canary.rollout()["reason"]) == ("canary", "")
    assert canary.rollout()["checks"][0]["observed"] == 2000


def test_a_candidate_that_goes_on_missing_calls_is_rolled_back_also_across_controllers(canary: Brain) -> None:
    for number in range(100):
        canary.score(1, rows=900, calls=90)
        canary.score(2, rows=60, missed=40)
        canary.tick(2)
        if number == 10:
            canary.revive()
            canary.tick()
        if canary.rollout()["state"] != "canary":
            break
    assert number <= 40
    assert canary.rollout()["state"] == "rolled_back"
    assert canary.rollout()["reason"].startswith("the candidate misses its calls for 30 s: 200 of 500 rows met no replica")


def test_a_step_is_not_passed_by_one_that_misses_calls() -> None:
    brain = Brain()
    brain.serve_first({**SURE, "deadline_s": 20})
    brain.build(2)
    brain.tick(4)
    for _ in range(10):
        brain.score(1, rows=90_000)
        brain.score(2, rows=10_000, missed=5_000)
        brain.tick(4)
    told = brain.rollout()
    assert (told["state"], told["step"], told["checks"][0]["verdict"]) == ("canary", 1, "passed")
    assert "met no replica that took them" in told["reason"]  # at the deadline: why it waits
    brain.score(1, rows=90_000)
    brain.score(2, rows=10_000)
    brain.tick(20)
    assert brain.rollout()["step"] == 2
