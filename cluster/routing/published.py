"""The tables that a controller has published."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.routing.changes import TableChange, change_between
from cluster.routing.routes import EMPTY, RouteTable, Stamp

TABLES_KEPT = 16  # a scorer that has an older one gets the whole


@dataclass(frozen=True, slots=True)
class _Last:
    """The last tables, and what has changed since each that was asked about."""

    tables: tuple[RouteTable, ...]
    changes: dict[Stamp, TableChange]


class PublishedTables:
    """The last ones. Written by one thread, read by any."""

    def __init__(self) -> None:
        # One value, so that who reads it beside a publication has a table and its own changes.
        self._last = _Last((EMPTY,), {})

    @property
    def newest(self) -> RouteTable:
        """The empty one before the first."""
        return self._last.tables[-1]

    def publish(self, table: RouteTable) -> None:
        """Makes it the newest."""
        if table is not self.newest:
            self._last = _Last((*self._last.tables, table)[-TABLES_KEPT:], {})

    def news(self, after: Stamp) -> RouteTable | TableChange:
        """What a scorer lacks whose table is stamped so: what has changed since, or the whole where that is too long ago."""
        last = self._last
        known = last.changes.get(after)
        if known is not None:
            return known
        before = next((table for table in last.tables if table.stamp == after), None)
        if before is None:
            return last.tables[-1]
        # Hundreds of scorers have the same table, and ask at the same time.
        change = last.changes[after] = change_between(before, last.tables[-1])
        return change
