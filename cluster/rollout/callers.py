"""Where several principals call, what one of them sends does not roll a candidate back for all. Pure.

Evidence is counted in total and, beside that, by the principal who sent it. A check that fails on all of it, or that waits, is
judged again without each of them: where it then does not fail, or passes, it waits for a person. That makes FAILED rarer and
leaves PASSED as it is, so both guarantees of gate.py hold. And since what the others send fails wrongly with a chance of at most
alpha over the rollout, his own chance to end a rollout is no greater, whatever he sends.

What streams and anonymous callers send is never left out, nor does one who sends nearly everything count as one among several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from cluster.rollout.checks.check import Check, Judged, Levels, Verdict
from cluster.rollout.evidence import Counts, EvidenceKey

CALLERS_AT_MOST = 64
FURTHER = "further callers"
"""What the callers of a stage beyond CALLERS_AT_MOST are counted as: one."""
OTHERS_AT_LEAST = 0.05
"""How much of what is judged others must have sent. Where one sends more, what is bad for him is bad for the model."""
LOOKED_AT = 8
"""Of a check that waits. Who alone is in the way is found first, by how the candidate looks without him; this bounds a tick."""


class CallersTold:
    """Which callers of a stage are counted apart: the first so many, however many names there are."""

    def __init__(self, known: Iterable[EvidenceKey] = ()) -> None:
        self._names: dict[tuple[str, str], set[str]] = {}
        for key in known:
            if key.caller and key.caller != FURTHER:
                self._names.setdefault((key.model, key.stage), set()).add(key.caller)

    def key(self, key: EvidenceKey) -> EvidenceKey:
        """Under which the caller's part is counted."""
        if not key.caller or key.caller == FURTHER:
            return key
        names = self._names.setdefault((key.model, key.stage), set())
        if key.caller not in names:
            if len(names) >= CALLERS_AT_MOST:
                return replace(key, caller=FURTHER)
            names.add(key.caller)
        return key


@dataclass(frozen=True, slots=True)
class Both:
    """What the candidate and stable did: all of it, or one caller's part."""

    ours: Counts
    base: Counts

    def __sub__(self, part: Both) -> Both:
        return Both(self.ours - part.ours, self.base - part.base)


NOTHING = Both(Counts(), Counts())


def several_call(rows: int, his: int) -> bool:
    """Whether of so many rows others than one caller have sent enough for what is bad for him alone not to be bad for all."""
    return rows - his >= OTHERS_AT_LEAST * rows


def judged_by_several(check: Check, levels: Levels, whole: Both, parts: Callable[[], Mapping[str, Both]]) -> Judged:
    """The check on the whole evidence, but where only what one caller sends speaks against the candidate: it waits then, and
    says so. `parts` of the evidence are by their callers."""
    judged = check.judged(whole.ours, whole.base, levels)
    if judged.verdict is Verdict.PASSED:
        return judged
    failed = judged.verdict is Verdict.FAILED
    for caller, rest in _without_each(check, whole, parts())[: None if failed else LOOKED_AT]:
        verdict = check.judged(rest.ours, rest.base, levels).verdict
        if failed and verdict is not Verdict.FAILED:
            return replace(judged, verdict=Verdict.WAITING, unless=f"only what {caller} sends speaks against it")
        if verdict is Verdict.PASSED:
            return replace(judged, unless=f"only what {caller} sends keeps it from passing")
    return judged


def _without_each(check: Check, whole: Both, parts: Mapping[str, Both]) -> list[tuple[str, Both]]:
    """What is left without each of several callers; first those without whom the candidate looks best."""
    sent = _labels if check.whole_rollout else _rows
    rests = {caller: whole - part for caller, part in parts.items() if several_call(sent(whole), sent(part))}
    worse = {caller: _worse(check, rest, whole) for caller, rest in rests.items()}
    return sorted(rests.items(), key=lambda one: (worse[one[0]], one[0]))


def _rows(both: Both) -> int:
    return both.ours.rows + both.base.rows


def _labels(both: Both) -> int:
    return both.ours.labelled + both.base.labelled


def _worse(check: Check, rest: Both, whole: Both) -> float:
    """By how much the candidate looks worse than stable; without bound where the rest tells nothing of either."""
    (ours, bad), (base, base_bad) = check.observed(rest.ours), check.observed(rest.base)
    if ours == 0 or (base == 0 and check.observed(whole.base)[0] > 0):
        return math.inf
    return bad / ours - (base_bad / base if base else 0.0)
