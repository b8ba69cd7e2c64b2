"""The durable memory of the controller."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from cluster.audit.merkle import TreeHead
from cluster.audit.uses import CallerOf, SeenCallers
from cluster.state import AuditEvent, State
from cluster.store.holder import Holder

NO_BRANCHES: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """The event of that number, the first being 0. `document` is its text as it was stored, which the tree has the hash of."""

    number: int
    document: str


class Store(Protocol):
    """Keeps one State and its audit. Every method blocks, and is safe from any thread.

    Raises Unreachable where the store is away or locked. A failed `save` may have been taken after all (the answer got lost):
    load again before going on.
    """

    def acquire(self, by: Holder | None = None) -> int:
        """Raises the fence and returns it: from now on only writes under this number are taken. Each call raises it again.

        `by` is the holder from now on; None: nobody says that he is.

        It is no less than the time, in Unix seconds: so a store that was restored from a copy has a higher one than any before,
        and its controller's tables are taken for newer than those of the store that was lost.
        """

    def holder(self) -> Holder | None:
        """Who said last that his controller has the store."""

    def renew(self, fence: int, by: Holder) -> None:
        """Says that the holder lives. Raises Fenced as `save`."""

    def load(self) -> State:
        """The state as last saved; the empty one in a new store. Raises BadInput where it holds what can't be read."""

    def save(
        self,
        fence: int,
        before: State,
        after: State,
        events: Sequence[AuditEvent],
        seen: SeenCallers | None = None,
        branches: Mapping[str, bytes] = NO_BRANCHES,
    ) -> None:
        """Saves what differs between the two and appends the events, in one transaction: all of it or nothing. Callers that were
        `seen` are remembered in it too, and who was not for long is forgotten, as are all of a model that is gone.

        `before` is what was last loaded or saved. `branches` of subject keys take the place of those stored as the same: they may
        be many more than fit into memory, so that no State has them. Raises Fenced, and writes nothing, where the fence has been
        raised since.
        """

    def branches(self, stored_as: Sequence[str]) -> Mapping[str, bytes]:
        """Those that there are of these branches."""

    def seen(self, callers: Collection[CallerOf]) -> Mapping[CallerOf, float]:
        """Those of these that are remembered, and when each used its model last, Unix time. They are no part of the state: there
        may be more of them than fit into memory."""

    def seen_count(self) -> int:
        """How many callers of models are remembered. Counts them: not for every tick."""

    def prune(self, fence: int, to: TreeHead, events: Sequence[AuditEvent]) -> None:
        """Deletes the records of the tree `to`, which are the audit's first, and appends the events, in one transaction.

        What was deleted keeps its numbers, and its edge: all that comes later is proven as before. Raises Fenced as `save`.
        """

    def audit_pruned(self) -> TreeHead:
        """The tree over the records that were pruned: the first that is here has its size for a number."""

    def audit(self, model: str, limit: int = 1000) -> list[AuditEvent]:
        """The newest events of a model, oldest first, but for those that are of the audit alone."""

    def audit_head(self) -> TreeHead:
        """The tree over all events that were ever saved, as it stands."""

    def audit_records(self, first: int, limit: int) -> list[AuditRecord]:
        """Events from that number on, in the order in which they were saved, as the bytes that the tree is made of.

        Raises NotFound where that one was pruned.
        """

    def close(self) -> None:
        """Gives connections back. Safe to repeat."""
