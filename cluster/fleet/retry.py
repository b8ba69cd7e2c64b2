"""Trying again what has to run and failed to start, for as long as it is wanted. Pure.

What a version lacked may come back by itself, such as the store of artifacts after a minute. The failed app stays, with its
reason, until the next try is due; then it is retired, and deployed once it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.ports import AppState, AppStatus

FIRST_S = 5.0
LONGEST_S = 300.0
STARTED = (AppStatus.READY, AppStatus.UNHEALTHY)  # it may be ill, but no try of ours would mend that


@dataclass(frozen=True, slots=True)
class Retry:
    """What failed to start so many times in a row, the last time for this reason.

    The next try is due at `next_s`, in Unix time; None while it is under way.
    """

    failures: int
    reason: str
    next_s: float | None


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row: doubled each time, up to LONGEST_S."""
    return min(FIRST_S * 2.0 ** min(failures - 1, 16), LONGEST_S)


def after_look(known: Retry | None, app: AppState | None, now_s: float) -> Retry | None:
    """What to remember after a look at the app; None where it has started, or has not failed."""
    if app is not None and app.status in STARTED:
        return None
    if known is None or known.next_s is None:
        if app is None or app.status is not AppStatus.FAILED:
            return known
        failures = 1 if known is None else known.failures + 1
        return Retry(failures, app.message, now_s + backoff_s(failures))
    if app is None and now_s >= known.next_s:
        return replace(known, next_s=None)
    return known


def due_at(now_s: float, known: Retry) -> Retry:
    """The same, to be tried again now; where a try is under way, that is the one."""
    return known if known.next_s is None else replace(known, next_s=now_s)


def is_due(known: Retry | None, now_s: float) -> bool:
    """Whether what failed is to go, so that it can be tried again."""
    return known is not None and known.next_s is not None and now_s >= known.next_s


def may_start(known: Retry | None) -> bool:
    """Whether what does not run may be started now."""
    return known is None or known.next_s is None
