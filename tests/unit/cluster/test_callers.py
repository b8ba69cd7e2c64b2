"""Where several principals call, what one of them sends does not roll a candidate back for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from cluster.commands.rollouts import RolloutView
from cluster.rollout.callers import CALLERS_AT_MOST, FURTHER, Both, CallersTold
from cluster.rollout.checks.check import Judged, Verdict
from cluster.rollout.evidence import Counts, Evidence, EvidenceKey
from cluster.rollout.gate import judge
from cluster.rollout.misses import WINDOW_S, Misses, after_counts, missing
from cluster.rollout.plan import Plan
from cluster.rollout.record import Rollout, RolloutState
from cluster.store.rows import from_rows, to_rows
from headrace.cli.screens.rollout import shown
from tests.support.brain import SURE, Brain

MALLORY = "key mallory"
TEAMS = [MALLORY, *(f"key team-{number}" for number in range(4))]
LOSES = {"labels": {"output": "output", "margin": 0.05}, "error_rate": None}


def judged(
    parts: Mapping[str, tuple[Counts, Counts]], checks: dict[str, Any] | None = None, *, step: int = 0, stage: str = ""
) -> Judged:
    """The first check on what each caller sent to the candidate and to stable; "" is what nobody's name is on."""
    steps = [{"shadow": 50}, {"weight": 10}, {"weight": 100}] if checks and "disagreement" in checks else SURE["steps"]
    plan = Plan.model_validate({"steps": steps, "checks": checks or {}})
    rollout = replace(Rollout(1, "digits", 1, 2, plan, 0.0, 0.0), state=RolloutState.CANARY, step=step)
    evidence: dict[EvidenceKey, Counts] = {}
    for caller, both in parts.items():
        for version, counts in zip((2, 1), both, strict=True):
            # Where the candidate answers alone, stable is judged by what it did before.
            at = stage or ("r1.1" if version == 1 else rollout.stage)
            for name in {"", caller}:
                key = EvidenceKey("digits", at, version, name)
                evidence[key] = evidence.get(key, Counts()) + counts
    return judge(rollout, Evidence(evidence))[0]


def of(rows: int, errors: int = 0) -> Counts:
    return Counts(rows=rows, errors=errors)


OTHERS = {"key ann": (of(500, 5), of(4500, 45)), "": (of(500, 5), of(4500, 45))}


@pytest.mark.parametrize("step", [0, 1], ids=["beside stable", "alone"])
def test_what_one_alone_sends_rolls_nothing_back_and_the_words_say_so(step: int) -> None:
    check = judged({**OTHERS, MALLORY: (of(400, 400), of(3600))}, step=step)
    assert (check.verdict, check.unless) == (Verdict.WAITING, "only what key mallory sends speaks against it")
    assert check.interval.low > check.margin
    assert check.words.endswith("limit 1 %, but only what key mallory sends speaks against it: waiting")


def test_what_nobody_has_signed_is_never_left_out() -> None:
    """Streams send most of what fails: somebody who may apply documents wanted them."""
    check = judged({"key ann": (of(500, 5), of(4500, 45)), MALLORY: (of(10, 10), of(90)), "": (of(400, 400), of(3600))})
    assert (check.verdict, check.unless) == (Verdict.FAILED, "")


def test_what_is_bad_for_two_is_bad_for_all() -> None:
    two = {name: (of(400, 400), of(3600)) for name in (MALLORY, "key ann")}
    assert judged({**two, "": (of(500, 5), of(4500, 45))}).verdict is Verdict.FAILED


@pytest.mark.parametrize(("others", "verdict"), [(50, Verdict.FAILED), (53, Verdict.WAITING)])
def test_one_who_sends_nearly_everything_is_no_one_among_several(others: int, verdict: Verdict) -> None:
    parts = {MALLORY: (of(500, 400), of(500)), "key ann": (of(others), Counts())}
    assert judged(parts).verdict is verdict


def test_one_alone_neither_keeps_a_rollout_waiting_unseen() -> None:
    parts = {"key ann": (of(9000, 90), of(90_000, 900)), MALLORY: (of(60, 60), of(10_000, 100))}
    check = judged(parts)
    assert (check.verdict, check.unless) == (Verdict.WAITING, "only what key mallory sends keeps it from passing")


def test_one_who_only_makes_stable_look_good_is_seen_through() -> None:
    """Keys say who is asked, and callers choose their keys: easy rows for stable, none for the candidate."""
    parts = {"key ann": (of(1000, 300), of(1000, 300)), MALLORY: (Counts(), of(20_000, 0))}
    assert judged({"key ann": parts["key ann"]}).verdict is Verdict.WAITING
    assert judged(parts).unless == "only what key mallory sends speaks against it"


def test_slow_calls_are_charged_to_everybody_in_them() -> None:
    """Total minus one's part is then what was called without him."""
    slow = {"slow": {"bound_ms": 50, "margin": 0.05}, "error_rate": None}
    ann = Counts(rows=3000, calls=1500, slow=500), Counts(rows=9000, calls=4500)
    mallory = Counts(rows=900, calls=500, slow=500), Counts(rows=900, calls=500)
    check = judged({"key ann": ann}, slow)
    assert check.verdict is Verdict.FAILED
    # The whole has each call once: 500 of ann's 1500 had mallory's rows in them too.
    plan = Plan.model_validate({"steps": SURE["steps"], "checks": slow})
    rollout = replace(Rollout(1, "digits", 1, 2, plan, 0.0, 0.0), state=RolloutState.CANARY)
    told = {"": (Counts(rows=3900, calls=1500, slow=500), Counts(rows=9900, calls=4500)), "key ann": ann, MALLORY: mallory}
    evidence = {EvidenceKey("digits", "r1.1", v, name): both[2 - v] for name, both in told.items() for v in (1, 2)}
    assert judge(rollout, Evidence(evidence))[0].unless == "only what key mallory sends speaks against it"


def test_disagreement_is_judged_so_too() -> None:
    checks = {"disagreement": {"margin": 0.02}, "error_rate": None}
    ann = Counts(rows=1000, compared=1000, disagreed=5), of(1000)
    check = judged({"key ann": ann, MALLORY: (Counts(rows=200, compared=200, disagreed=200), of(200))}, checks)
    assert check.unless == "only what key mallory sends speaks against it"


def test_labels_are_judged_so_too() -> None:
    ann, made_up = Counts(labelled=1000, loss=100.0), Counts(labelled=500, loss=500.0)
    assert judged({"key ann": (ann, ann), MALLORY: (made_up, Counts())}, LOSES, stage="r1.labels").unless
    assert judged({MALLORY: (made_up, ann)}, LOSES, stage="r1.labels").verdict is Verdict.FAILED


def test_so_many_callers_of_a_stage_are_told_apart_and_no_more() -> None:
    told = CallersTold()
    names = [told.key(EvidenceKey("digits", "r1.1", 2, f"key {number}")).caller for number in range(CALLERS_AT_MOST + 5)]
    assert names[-6:] == ["key 63", *[FURTHER] * 5]
    assert told.key(EvidenceKey("digits", "r1.1", 1, "key 7")).caller == "key 7"
    assert told.key(EvidenceKey("digits", "r1.2", 1, "key 68")).caller == "key 68"
    assert told.key(EvidenceKey("digits", "r1.1", 1)).caller == ""


def test_parts_are_saved_beside_the_whole_bounded_and_judged_after_a_restart() -> None:
    brain = Brain()
    brain.serve_first({**SURE, "on_deadline": "rollback"})
    brain.build(2)
    brain.tick(4)
    brain.score(1, rows=9000)
    for number in range(CALLERS_AT_MOST + 10):
        brain.score(2, rows=1)
        brain.score(2, caller=f"key {number}", rows=1)
    brain.score(2, rows=500, errors=500)
    brain.score(2, caller="key 3", rows=500, errors=500)
    brain.score(2, rows=500)  # of streams
    brain.tick()
    state = brain.store.load()
    assert len(state.evidence) == CALLERS_AT_MOST + 3  # with those of further callers, and the whole of either version
    assert from_rows(to_rows(state)) == state
    brain.revive()
    brain.tick(2)
    (check,) = brain.rollout()["checks"]
    assert (check["verdict"], check["words"].split(", but ")[-1]) == (
        "waiting",
        "only what key 3 sends speaks against it: waiting",
    )
    screen = StringIO()
    Console(file=screen, width=300).print(shown(RolloutView.model_validate(brain.rollout())))
    assert "limit 1 %, but only what key 3 sends speaks against it: waiting  [" in screen.getvalue()
    brain.tick(each_s=SURE["deadline_s"])
    rollout = brain.rollout()
    assert rollout["state"] == "canary"
    assert "only what key 3 sends" in rollout["reason"]
    held = brain.store.audit("digits")[-1]
    assert held.event == "held"
    brain.score(2, rows=500, errors=500)  # now others' fail too
    brain.tick()
    assert brain.rollout()["state"] == "rolled_back"


class Watched:
    """The candidate's misses, by callers, looked at twice a second."""

    def __init__(self) -> None:
        self.now_s, self.misses = 1000.0, Misses()
        self.parts: dict[str, Both] = {}
        self.window()

    def window(self, times: int = 1, **told: tuple[Counts, Counts]) -> None:
        """In so many windows, that is counted of each at their beginning."""
        for _ in range(times):
            for caller, (ours, base) in told.items():
                known = self.parts.get(caller, Both(Counts(), Counts()))
                self.parts[caller] = Both(known.ours + ours, known.base + base)
            whole = Both(sum((part.ours for part in self.parts.values()), Counts()), sum_of_base(self.parts))
            for _ in range(round(2 * WINDOW_S)):
                self.now_s += 0.5
                self.misses = after_counts(self.misses, "r1.1", whole, lambda: self.parts, margin=0.01, now_s=self.now_s)


def sum_of_base(parts: Mapping[str, Both]) -> Counts:
    return sum((part.base for part in parts.values()), Counts())


def test_one_whose_calls_alone_are_missed_ends_nothing_and_passes_nothing() -> None:
    seen = Watched()
    seen.window(20, mallory=(Counts(missed=50), of(100)), ann=(of(100), of(900)))
    assert missing(seen.misses, 0) == ""
    assert not seen.misses.takes_its_share
    assert seen.misses.words.endswith("but without what mallory sends not too many")
    seen.window(1, mallory=(Counts(missed=50), of(100)), ann=(Counts(missed=100), of(900)))
    assert missing(seen.misses, 0) != ""


def test_one_that_misses_everybodys_few_calls_is_as_ill_as_before() -> None:
    """In each window another's: it is looked at from the first on."""
    seen = Watched()
    for turn in range(7):
        seen.window(1, **{TEAMS[turn % 5].split()[1]: (Counts(missed=1), of(9))})
    assert missing(seen.misses, 0).startswith("for 35 s: 1 of 1 rows met no replica")


ALPHA = 0.2
ROLLOUTS = 60
LOOKS = 150
EACH = 10  # rows of each caller, to either version, from look to look


@pytest.mark.proof
@pytest.mark.parametrize("attack", ["fails", "easy for stable", "worst first"])
def test_one_of_five_rolls_back_in_at_most_alpha_of_all_rollouts(attack: str) -> None:
    """Next to no margin, versions that are the same for the others, and mallory who sends what he likes."""
    random = np.random.default_rng(20261130)
    wrong = 0
    for _ in range(ROLLOUTS):
        bad = (random.random((2, LOOKS, 5, EACH)) < 0.1).sum(axis=3)
        bad[1, :, 0] = 0
        if attack != "easy for stable":
            bad[0, :, 0] = EACH if attack == "fails" else 0
            bad[0, : LOOKS // 10, 0] = EACH
        wrong += first_failed(bad, margin=1e-9) is not None
    assert wrong / ROLLOUTS <= ALPHA


@pytest.mark.proof
def test_what_is_bad_for_everybody_is_found_nearly_as_soon() -> None:
    random = np.random.default_rng(3)
    later = []
    for _ in range(ROLLOUTS):
        bad = np.stack([(random.random((LOOKS, 5, EACH)) < rate).sum(axis=2) for rate in (0.25, 0.02)])
        told, before = first_failed(bad, margin=0.01), first_failed(bad, margin=0.01, callers=False)
        assert told is not None
        assert before is not None
        later.append((told + 1) / (before + 1))
    assert np.mean(later) < 1.5


def test_the_same_simulation_rolls_back_what_one_alone_brings_about_where_nobody_is_told_apart() -> None:
    """So that the tests above can fail."""
    bad = np.zeros((2, LOOKS, 5), dtype=np.int64)
    bad[0, :, 0] = EACH
    assert first_failed(bad, margin=0.01, callers=False) is not None
    assert first_failed(bad, margin=0.01) is None


def first_failed(bad: npt.NDArray[np.int64], *, margin: float, callers: bool = True) -> int | None:
    """At which look the check fails. `bad` [2, looks, callers] rows of EACH that the candidate fails, and stable."""
    plan = Plan.model_validate({"steps": SURE["steps"], "checks": {"error_rate": {"margin": margin}}, "alpha": ALPHA})
    rollout = replace(Rollout(1, "digits", 1, 2, plan, 0.0, 0.0), state=RolloutState.CANARY)
    sums = bad.cumsum(axis=1)
    for look in range(bad.shape[1]):
        rows = EACH * (look + 1)
        evidence = {}
        for version, failed in ((2, sums[0, look]), (1, sums[1, look])):
            evidence[EvidenceKey("digits", "r1.1", version)] = of(rows * len(TEAMS), int(failed.sum()))
            for caller, errors in zip(TEAMS if callers else [], failed.tolist(), strict=callers):
                evidence[EvidenceKey("digits", "r1.1", version, caller)] = of(rows, errors)
        if judge(rollout, Evidence(evidence))[0].verdict is Verdict.FAILED:
            return look
    return None
