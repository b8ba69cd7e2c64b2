"""Where several principals call, what one of them sends does not roll a candidate back for all. Pure.

Evidence is counted in total and, beside that, by the principal who sent it. A check that fails on all of it, or that waits, is
judged again without each of them: where it then does not fail, or passes, it waits for a person. That makes FAILED rarer and
leaves PASSED as it is, so both guarantees of gate.py hold. And since what the others send fails wrongly with a chance of at most
alpha over the rollout, his own chance to end a rollout is no greater, whatever he sends.

What streams and anonymous callers send is never left out, nor does one who sends nearly everything count as one among several.
"""

from __future__ import annotations

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
"""Who alone turns a check has sent much of what is bad, so only so many are looked at: those who sent most of it."""


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

    @property
    def judged(self) -> int:
        """Of either together."""
        return self.ours.judged + self.base.judged


def several_call(rows: int, his: int) -> bool:
    """Whether of so many rows others than one caller have sent enough for what is bad for him alone not to be bad for all."""
    return rows - his >= OTHERS_AT_LEAST * rows


def judged_by_several(
    check: Check, levels: Levels, part: Callable[[str], Both], candidates: Callable[[], Mapping[str, Counts]]
) -> Judged:
    """The check on the whole evidence, but where only what one caller sends speaks against the candidate: it waits then, and
    says so.

    `part` gives what a caller sent, and the whole for ""; `candidates` what each one's part says of the candidate.
    """
    whole = part("")
    judged = check.judged(whole.ours, whole.base, levels)
    if judged.verdict is Verdict.PASSED:
        return judged
    bad = {caller: check.observed(counts)[1] for caller, counts in candidates().items()}
    for caller in sorted((caller for caller in bad if bad[caller] > 0), key=lambda caller: (-bad[caller], caller))[:LOOKED_AT]:
        own = part(caller)
        if not several_call(whole.judged, own.judged):
            continue
        rest = whole - own
        verdict = check.judged(rest.ours, rest.base, levels).verdict
        if judged.verdict is Verdict.FAILED and verdict is not Verdict.FAILED:
            return replace(judged, verdict=Verdict.WAITING, unless=f"for only what {caller} sends speaks against it")
        if judged.verdict is Verdict.WAITING and verdict is Verdict.PASSED:
            return replace(judged, unless=f"for only what {caller} sends keeps it from passing")
    return judged
