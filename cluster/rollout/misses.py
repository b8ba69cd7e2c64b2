"""Whether a candidate goes on missing calls that stable takes. Pure.

A call that met no replica of it, or none in time, is no evidence for the checks (blame.py). But a candidate that can't take its
share must not pass a step, and where that lasts it is too ill to go on. It is looked at in windows, so that one that recovers
is well at once: in each, its share of missed rows may be above stable's by as much as its share of failed ones.

Whoever sends what takes nearly all the time that a call may have makes the slower version miss it. So what is missed of one
caller's calls alone ends no rollout where several call (callers.py), but it passes no step either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from cluster.rollout.callers import Both, several_call
from cluster.rollout.evidence import Counts
from cluster.rollout.illness import too_long_s

WINDOW_S = 5.0
QUIET_S = 30.0  # what was seen before so long a time without a call says nothing of now
MARGIN = 0.01  # where no error rate is judged
WHOLE = ""  # among callers

BothAsked = tuple[int, int, int, int]
"""Rows that the candidate was asked, and missed, and those of stable."""
NOBODY_ASKED: BothAsked = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Misses:
    """From when to when each window has had too many misses; both None where the last had not. Times are Unix seconds.

    The window under way began at `began_s` in `stage`, where `ours` and `base` had been counted of the candidate and of stable:
    how many rows were asked, and how many of them missed. `so_far` says whether it has too many until now. `words` tell of the
    last window that had. `only` is a caller without whose calls not too many were missed since `since_s`; `parts` are the counts
    of then, whole and by callers.
    """

    since_s: float | None = None
    until_s: float | None = None
    began_s: float = 0.0
    stage: str = ""
    ours: tuple[int, int] = (0, 0)
    base: tuple[int, int] = (0, 0)
    so_far: bool = False
    words: str = ""
    only: str = ""
    parts: Mapping[str, BothAsked] = field(default_factory=dict)

    @property
    def takes_its_share(self) -> bool:
        """Whether nothing is known of calls that it goes on missing."""
        return self.since_s is None and not self.so_far

    @property
    def excused(self) -> Misses:
        """The same, where what was missed so far is no fault of the candidate: it ends no rollout, and passes no step either."""
        if self.since_s == self.until_s:
            return self
        return replace(self, since_s=self.until_s)


def after_counts(
    misses: Misses,
    stage: str,
    whole: Both,
    parts: Callable[[], Mapping[str, Both]] = dict,
    *,
    margin: float,
    now_s: float,
) -> Misses:
    """What is known after a look at what was counted in the stage, of it the `parts` by their callers; the same object where
    nothing has changed."""
    if misses.stage != stage:
        misses = replace(misses, began_s=now_s, stage=stage, ours=(0, 0), base=(0, 0), parts={})
    mine, its = _since(misses.ours, _asked(whole.ours)), _since(misses.base, _asked(whole.base))
    too_many, lasted_s = _share(mine) > _share(its) + margin, now_s - misses.began_s
    if lasted_s < WINDOW_S or (mine[0] == 0 and (misses.since_s is None or lasted_s < QUIET_S)):
        return misses if misses.so_far == too_many else replace(misses, so_far=too_many)
    counted = {caller: _both_asked(part) for caller, part in ({**parts(), WHOLE: whole}).items()}
    after = Misses(began_s=now_s, stage=stage, ours=_asked(whole.ours), base=_asked(whole.base), parts=counted)
    if not too_many:
        return after
    since_s = misses.since_s if misses.since_s is not None else max(misses.began_s, now_s - WINDOW_S)
    only = _only(misses.parts, counted, margin)
    words = f"{_told(mine)} met no replica that took them, stable {_told(its)}"
    if only:
        words = f"{words}, but without what {only} sends not too many"
    return replace(after, since_s=since_s, until_s=now_s, words=words, only=only, parts=misses.parts)


def _only(before: Mapping[str, BothAsked], now: Mapping[str, BothAsked], margin: float) -> str:
    """The caller without whose calls not too many were missed from the one to the other, where others call as well."""
    since = {caller: _since_both(before.get(caller, NOBODY_ASKED), counts) for caller, counts in now.items()}
    whole = since.pop(WHOLE)
    for caller, own in since.items():
        ours, missed, base, base_missed = _since_both(own, whole)
        enough = several_call(whole[0] + whole[2], own[0] + own[2])
        if enough and _share((ours, missed)) <= _share((base, base_missed)) + margin:
            return caller
    return ""


def missing(misses: Misses, warmed_s: float) -> str:
    """In which way it misses too much to go on; empty where it may recover, as a replica that took `warmed_s` to start would."""
    if misses.since_s is None or misses.until_s is None or misses.until_s - misses.since_s < too_long_s(warmed_s) or misses.only:
        return ""
    return f"for {misses.until_s - misses.since_s:.0f} s: {misses.words}"


def _asked(counts: Counts) -> tuple[int, int]:
    return counts.rows + counts.missed, counts.missed


def _both_asked(both: Both) -> BothAsked:
    return *_asked(both.ours), *_asked(both.base)


def _since_both(before: BothAsked, now: BothAsked) -> BothAsked:
    return now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3]


def _since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    return now[0] - before[0], now[1] - before[1]


def _share(rows: tuple[int, int]) -> float:
    return rows[1] / rows[0] if rows[0] else 0.0


def _told(rows: tuple[int, int]) -> str:
    return f"{rows[1]} of {rows[0]} rows"
