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


@dataclass(frozen=True, slots=True)
class Misses:
    """From when to when each window has had too many misses; both None where the last had not. Times are Unix seconds.

    The window under way began at `began_s` in `stage`, where `ours` and `base` had been counted of the candidate and of stable:
    how many rows were asked, and how many of them missed. `so_far` says whether it has too many until now. `words` tell of the
    last window that had. `harm_since_s` is as `since_s`, of windows that have too many without any one caller's calls too, and
    `only` is the caller without whose calls the last had not; `parts` has each one's counts, as `ours` and `base`, of its begin.
    """

    since_s: float | None = None
    until_s: float | None = None
    began_s: float = 0.0
    stage: str = ""
    ours: tuple[int, int] = (0, 0)
    base: tuple[int, int] = (0, 0)
    so_far: bool = False
    words: str = ""
    harm_since_s: float | None = None
    only: str = ""
    parts: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)

    @property
    def takes_its_share(self) -> bool:
        """Whether nothing is known of calls that it goes on missing."""
        return self.since_s is None and not self.so_far


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
    by_caller = {caller: (*_asked(part.ours), *_asked(part.base)) for caller, part in parts().items()}
    after = Misses(began_s=now_s, stage=stage, ours=_asked(whole.ours), base=_asked(whole.base), parts=by_caller)
    if not too_many:
        return after
    began_s = max(misses.began_s, now_s - WINDOW_S)
    only = _only(misses.parts, by_caller, mine, its, margin)
    words = f"{_told(mine)} met no replica that took them, stable {_told(its)}"
    return replace(
        after,
        since_s=misses.since_s if misses.since_s is not None else began_s,
        until_s=now_s,
        words=f"{words}, all but for {only} within the limit" if only else words,
        harm_since_s=None if only else misses.harm_since_s if misses.harm_since_s is not None else began_s,
        only=only,
    )


def _only(
    before: Mapping[str, tuple[int, int, int, int]],
    now: Mapping[str, tuple[int, int, int, int]],
    mine: tuple[int, int],
    its: tuple[int, int],
    margin: float,
) -> str:
    """The caller without whose calls the window has not too many misses, where others call as well."""
    for caller, counts in now.items():
        old = before.get(caller, (0, 0, 0, 0))
        own, base = _since(old[:2], counts[:2]), _since(old[2:], counts[2:])
        others = _since(own, mine), _since(base, its)
        enough = several_call(mine[0] + its[0], own[0] + base[0])
        if own[1] > 0 and enough and _share(others[0]) <= _share(others[1]) + margin:
            return caller
    return ""


def missing(misses: Misses, warmed_s: float) -> str:
    """In which way it misses too much to go on; empty where it may recover, as a replica that took `warmed_s` to start would."""
    if misses.harm_since_s is None or misses.until_s is None or misses.until_s - misses.harm_since_s < too_long_s(warmed_s):
        return ""
    return f"for {misses.until_s - misses.harm_since_s:.0f} s: {misses.words}"


def _asked(counts: Counts) -> tuple[int, int]:
    return counts.rows + counts.missed, counts.missed


def _since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    return now[0] - before[0], now[1] - before[1]


def _share(rows: tuple[int, int]) -> float:
    return rows[1] / rows[0] if rows[0] else 0.0


def _told(rows: tuple[int, int]) -> str:
    return f"{rows[1]} of {rows[0]} rows"
