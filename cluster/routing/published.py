"""The tables that a controller has published."""

from __future__ import annotations

from cluster.routing.changes import TableChange, change_between
from cluster.routing.routes import EMPTY, RouteTable, Stamp

TABLES_KEPT = 16  # a scorer that has an older one gets the whole


class PublishedTables:
    """The last ones. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._recent: tuple[RouteTable, ...] = (EMPTY,)

    @property
    def newest(self) -> RouteTable:
        """The empty one before the first."""
        return self._recent[-1]

    def publish(self, table: RouteTable) -> None:
        """Makes it the newest."""
        if table is not self.newest:
            self._recent = (*self._recent, table)[-TABLES_KEPT:]

    def news(self, after: Stamp) -> RouteTable | TableChange:
        """What a scorer lacks whose table is stamped so: what has changed since, or the whole where that is too long ago."""
        tables = self._recent
        before = next((table for table in tables if table.stamp == after), None)
        return tables[-1] if before is None else change_between(before, tables[-1])
