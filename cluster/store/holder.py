"""Whose controller has a store, and whether another cluster's may take it.

Two clusters that are both kept up over one store would take it from each other without end: each controller fences the last one.
So one that begins looks first whether another cluster's lives, by what that one writes, and by its own clock alone: clocks of two
clusters need not agree, and while the database is away nobody shows any life.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.errors import Fenced, Unreachable

RENEW_EVERY_S = 5.0
# Longer than a holder waits for a PostgreSQL that has gone without a word, before it connects anew.
DEAD_AFTER_S = 30.0
GAP_S = DEAD_AFTER_S / 3  # between two looks that count as one watch


@dataclass(frozen=True, slots=True)
class Holder:
    """The cluster whose controller acquired the store last. `cluster` tells clusters apart, and `place` tells people which it is.

    It has the store since `since_s`, and said last at `renewed_s` that it lives: Unix times by its own clock.
    """

    cluster: str
    place: str
    since_s: float
    renewed_s: float


class StoreClaim:
    """One cluster's wish to have a store. Used from one thread."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._seen: Holder | None = None
        self._since_s = self._asked_s = 0.0
        self._lives = False

    def check(self, holder: Holder | None, now_s: float, *, where: str) -> None:
        """Returns where the store may be acquired: nobody says that he has it, this very cluster does, or who does has shown no
        life for DEAD_AFTER_S, of which this was asked all the time: while a store is away nobody can show any. `now_s` is by any
        clock that only goes on; `where` names the store.

        Raises Fenced where another cluster's controller lives, and Unreachable as long as that is not known.
        """
        if holder is None or holder.cluster == self._cluster:
            return
        if holder != self._seen:
            self._lives = self._seen is not None
            self._seen, self._since_s = holder, now_s
        elif now_s - self._asked_s > GAP_S:
            self._since_s = now_s
        self._asked_s = now_s
        if now_s - self._since_s >= DEAD_AFTER_S:
            return
        at = datetime.fromtimestamp(holder.since_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if self._lives:
            raise Fenced(
                f"another cluster's controller has this store since {at}, and lives: {holder.place}",
                where=where,
                remedy="end that one, or give this one a database of its own (HEADRACE_STORE_URL), or say `headrace up "
                "--take-over`, after which that one decides nothing more",
            )
        raise Unreachable(
            f"another cluster's controller has this store since {at}: {holder.place}; it is watched whether that one lives",
            where=where,
            remedy=f"wait: where it shows no life for {DEAD_AFTER_S:.0f} s, this one takes the store",
        )
