"""When a candidate that does not answer is too ill to go on. Pure.

One that is away once is not proven bad: a process can be killed, a node restarted, and Serve replaces a replica within seconds.
What counts is that it lasts, or comes often; and nothing of it counts while stable is away as well: then the cause is another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LASTS_S = 30.0
OFTEN = 3
OFTEN_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Illness:
    """Since when a candidate is ill, and when it fell ill before. Times are Unix seconds.

    `since_s` is None while it is well, and while it does not count. `excused` is an illness during which stable was away as well:
    it counts from when stable is back, and is none of `begun`.
    """

    since_s: float | None = None
    excused: bool = False
    begun: tuple[float, ...] = ()


def after_look(illness: Illness, *, ready: bool, ill: bool, outage: bool, now_s: float) -> Illness:
    """The illness after a look. `ill` begins an illness and only `ready` ends it: a replica that restarts is not well yet."""
    if ready:
        return illness if illness.since_s is None and not illness.excused else Illness(begun=illness.begun)
    if illness.since_s is None and not illness.excused:
        if not ill:
            return illness
        return (
            Illness(None, excused=True, begun=illness.begun)
            if outage
            else Illness(now_s, begun=(*_recent(illness, now_s), now_s))
        )
    if outage:
        begun = illness.begun if illness.excused else illness.begun[:-1]
        return Illness(None, excused=True, begun=begun)
    return replace(illness, since_s=now_s) if illness.since_s is None else illness


def lasts(illness: Illness, now_s: float, warmed_s: float) -> bool:
    """Whether it has been ill for too long: longer than a replica that took `warmed_s` to start needs to be replaced."""
    return illness.since_s is not None and now_s - illness.since_s >= too_long_s(warmed_s)


def too_long_s(warmed_s: float) -> float:
    """How long is too long: LASTS_S, or what a replica that took `warmed_s` to start may need to be replaced."""
    return max(LASTS_S, 2 * warmed_s)


def too_ill(illness: Illness, now_s: float, warmed_s: float) -> str:
    """In which way it is too ill, to be put after "it is unhealthy"; empty where it may recover."""
    if illness.since_s is None:
        return ""
    times = 0 if illness.excused else len(_recent(illness, now_s))
    if times >= OFTEN:
        return f"{times} times within {OFTEN_WITHIN_S:g} s"
    return f"for {now_s - illness.since_s:.0f} s" if lasts(illness, now_s, warmed_s) else ""


def _recent(illness: Illness, now_s: float) -> tuple[float, ...]:
    return tuple(at_s for at_s in illness.begun if now_s - at_s < OFTEN_WITHIN_S)
