"""Whether a candidate goes on missing calls that stable takes. Pure.

A call that met no replica of it, or none in time, is no evidence for the checks (blame.py). But a candidate that can't take its
share must not pass a step, and where that lasts it is too ill to go on. It is looked at in windows, so that one that recovers
is well at once: in each, its share of missed rows may be above stable's by as much as its share of failed ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    last window that had.
    """

    since_s: float | None = None
    until_s: float | None = None
    began_s: float = 0.0
    stage: str = ""
    ours: tuple[int, int] = (0, 0)
    base: tuple[int, int] = (0, 0)
    so_far: bool = False
    words: str = ""

    @property
    def takes_its_share(self) -> bool:
        """Whether nothing is known of calls that it goes on missing."""
        return self.since_s is None and not self.so_far


def after_counts(misses: Misses, stage: str, ours: Counts, base: Counts, *, margin: float, now_s: float) -> Misses:
    """What is known after a look at what was counted in the stage; the same object where nothing has changed."""
    if misses.stage != stage:
        misses = replace(misses, began_s=now_s, stage=stage, ours=(0, 0), base=(0, 0))
    mine, its = _since(misses.ours, _asked(ours)), _since(misses.base, _asked(base))
    too_many, lasted_s = _share(mine) > _share(its) + margin, now_s - misses.began_s
    if lasted_s < WINDOW_S or (mine[0] == 0 and (misses.since_s is None or lasted_s < QUIET_S)):
        return misses if misses.so_far == too_many else replace(misses, so_far=too_many)
    after = Misses(began_s=now_s, stage=stage, ours=_asked(ours), base=_asked(base))
    if not too_many:
        return after
    since_s = misses.since_s if misses.since_s is not None else max(misses.began_s, now_s - WINDOW_S)
    words = f"{_told(mine)} met no replica that took them, stable {_told(its)}"
    return replace(after, since_s=since_s, until_s=now_s, words=words)


def missing(misses: Misses, warmed_s: float) -> str:
    """In which way it misses too much to go on; empty where it may recover, as a replica that took `warmed_s` to start would."""
    if misses.since_s is None or misses.until_s is None or misses.until_s - misses.since_s < too_long_s(warmed_s):
        return ""
    return f"for {misses.until_s - misses.since_s:.0f} s: {misses.words}"


def _asked(counts: Counts) -> tuple[int, int]:
    return counts.rows + counts.missed, counts.missed


def _since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    return now[0] - before[0], now[1] - before[1]


def _share(rows: tuple[int, int]) -> float:
    return rows[1] / rows[0] if rows[0] else 0.0


def _told(rows: tuple[int, int]) -> str:
    return f"{rows[1]} of {rows[0]} rows"
