"""Commands that were refused: the first of a kind is recorded at once, what comes again is counted for a minute. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.audit.kinds import COMMAND_REFUSED
from cluster.audit.uses import OTHERS
from cluster.state import AuditEvent

WINDOW_S = 60.0
KINDS_MOST = 32  # recorded apart in one minute; a flood of others makes one record a command and reason


class Refusal(NamedTuple):
    """Who asked for what, by which door and from where, and why he did not get it: the kind of the error alone, since its words
    may quote what was sent."""

    principal: str
    door: str
    address: str
    command: str
    model: str
    reason: str


@dataclass(slots=True)
class _Again:
    """Not recorded yet."""

    times: int
    from_s: float
    to_s: float


class RefusalBook:
    """Used under the controller's lock."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._kinds: dict[Refusal, _Again] = {}
        self._is_over = False  # the minute, as `due` saw it last

    def note(self, refusal: Refusal, now_s: float) -> AuditEvent | None:
        """The record to write now; None for what is only counted."""
        if not self._kinds:
            self._began_s = now_s
        again = self._kinds.get(refusal)
        if again is None and len(self._kinds) < KINDS_MOST:
            self._kinds[refusal] = _Again(0, now_s, now_s)
            return _record(refusal, _Again(1, now_s, now_s), now_s)
        if again is None:
            refusal = refusal._replace(principal=OTHERS, door="", address="", model="")
        self._count(refusal, now_s)
        return None

    def not_written(self, refusal: Refusal, now_s: float) -> None:
        """What `note` gave could not be saved: it is counted, for later."""
        self._count(refusal, now_s)

    def due(self, now_s: float) -> tuple[AuditEvent, ...]:
        """Records of what came again, once the minute is over; they stay due until `written`."""
        self._is_over = bool(self._kinds) and not 0 <= now_s - self._began_s < WINDOW_S
        if not self._is_over:
            return ()
        return tuple(_record(refusal, again, now_s) for refusal, again in self._kinds.items() if again.times)

    def written(self) -> None:
        """What `due` gave last is saved: a new minute begins where that one was over."""
        if self._is_over:
            self._kinds, self._is_over = {}, False

    def _count(self, refusal: Refusal, now_s: float) -> None:
        again = self._kinds.setdefault(refusal, _Again(0, now_s, now_s))
        again.times, again.to_s = again.times + 1, now_s


def _record(refusal: Refusal, again: _Again, now_s: float) -> AuditEvent:
    detail: dict[str, Any] = {"command": refusal.command, "reason": refusal.reason, "times": again.times}
    if again.times > 1:
        detail |= {"from_s": again.from_s, "to_s": again.to_s}
    return AuditEvent(now_s, refusal.model, None, COMMAND_REFUSED, refusal.principal, detail, refusal.door, refusal.address)
