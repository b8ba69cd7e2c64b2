"""A store that forgets at the end of the process: for tests, held to the same contract as the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

from pydantic import TypeAdapter

from cluster.audit.kinds import APART
from cluster.audit.merkle import TreeHead
from cluster.audit.uses import CallerOf, SeenCallers
from cluster.errors import Fenced, NotFound
from cluster.state import AuditEvent, State
from cluster.store.holder import Holder
from cluster.store.port import NO_BRANCHES, AuditRecord
from cluster.store.rows import from_rows, to_rows

_EVENT = TypeAdapter(AuditEvent)


class MemoryStore:
    """A Store in memory. Keeps rows, not objects, so that what does not survive the real store does not survive this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fence = 0
        self._holder: Holder | None = None
        self._rows = to_rows(State())
        self._branches: dict[str, bytes] = {}
        self._audit: list[AuditEvent] = []
        self._pruned = TreeHead()
        self._seen: dict[CallerOf, float] = {}

    def acquire(self, by: Holder | None = None) -> int:
        with self._lock:
            self._fence = max(self._fence + 1, int(time.time()))
            self._holder = by
            return self._fence

    def holder(self) -> Holder | None:
        with self._lock:
            return self._holder

    def renew(self, fence: int, by: Holder) -> None:
        with self._lock:
            if fence != self._fence:
                raise fenced()
            self._holder = by

    def load(self) -> State:
        with self._lock:
            return from_rows(self._rows)

    def save(
        self,
        fence: int,
        before: State,
        after: State,
        events: Sequence[AuditEvent],
        seen: SeenCallers | None = None,
        branches: Mapping[str, bytes] = NO_BRANCHES,
    ) -> None:
        with self._lock:
            if fence != self._fence:
                raise fenced()
            self._rows = to_rows(after)
            self._branches |= branches
            self._audit.extend(events)
            if gone := before.models.keys() - after.models.keys():
                self._seen = {one: last_s for one, last_s in self._seen.items() if one.model not in gone}
            if seen is not None:
                self._seen = {one: last_s for one, last_s in self._seen.items() if last_s >= seen.forget_s} | dict(seen.seen)

    def seen(self, callers: Collection[CallerOf]) -> Mapping[CallerOf, float]:
        with self._lock:
            return {one: self._seen[one] for one in callers if one in self._seen}

    def seen_count(self) -> int:
        with self._lock:
            return len(self._seen)

    def branches(self, stored_as: Sequence[str]) -> Mapping[str, bytes]:
        with self._lock:
            return {name: self._branches[name] for name in stored_as if name in self._branches}

    def audit(self, model: str, limit: int = 1000) -> list[AuditEvent]:
        with self._lock:
            return [event for event in self._audit if event.model == model and event.event not in APART][-limit:]

    def audit_head(self) -> TreeHead:
        with self._lock:
            return self._pruned.adding(_EVENT.dump_json(event) for event in self._audit)

    def prune(self, fence: int, to: TreeHead, events: Sequence[AuditEvent]) -> None:
        with self._lock:
            if fence != self._fence:
                raise fenced()
            if to.size > self._pruned.size:
                del self._audit[: to.size - self._pruned.size]
                self._pruned = to
            self._audit.extend(events)

    def audit_pruned(self) -> TreeHead:
        with self._lock:
            return self._pruned

    def audit_records(self, first: int, limit: int) -> list[AuditRecord]:
        with self._lock:
            pruned = self._pruned.size
            if first < pruned:
                raise pruned_before(pruned)
            part = self._audit[first - pruned : first - pruned + limit]
        return [AuditRecord(first + at, _EVENT.dump_json(event).decode()) for at, event in enumerate(part)]

    def close(self) -> None:
        """Nothing to give back."""


def fenced() -> Fenced:
    """What a controller meets that has been replaced."""
    return Fenced("another controller has taken over this store", where="controller", remedy="this one stops; ask again")


def pruned_before(first: int) -> NotFound:
    """What who asks for older records meets."""
    return NotFound(
        f"the records before {first} were pruned", where="audit", remedy="they are in the folder that they were exported into"
    )
