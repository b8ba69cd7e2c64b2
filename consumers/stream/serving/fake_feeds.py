"""Feeds in memory, for tests of what decides over them. They pass the contract suite of the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.errors import Unreachable
from cluster.ports import AppState, AppStatus, FeedSpec, FeedState


class FakeFeeds:
    """Implements `Feeds`. A stream is READY at the first look after its start, and gone at the first look after its stop.

    `started` and `stopped` list what was really done, in order. `away` makes every call raise Unreachable.
    """

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.stopped: list[str] = []
        self.away = False
        self._feeds: dict[str, FeedState] = {}

    def start(self, feed: FeedSpec) -> None:
        """See `Feeds.start`."""
        self._reach()
        running = self._feeds.get(feed.name)
        if running is not None:
            if running.digest != feed.digest:
                self.stop(feed.name)
            return
        self.started.append((feed.name, feed.digest))
        self._feeds[feed.name] = FeedState(feed.name, feed.digest, AppState(feed.app, AppStatus.STARTING, 0, 1))

    def state(self) -> Mapping[str, FeedState]:
        """See `Feeds.state`."""
        self._reach()
        for name, seen in list(self._feeds.items()):
            if seen.app.status is AppStatus.STOPPING:
                del self._feeds[name]
            elif seen.app.status is AppStatus.STARTING:
                self._feeds[name] = replace(seen, app=replace(seen.app, status=AppStatus.READY, replicas=1))
        return dict(self._feeds)

    def stop(self, name: str) -> None:
        """See `Feeds.stop`."""
        self._reach()
        seen = self._feeds.get(name)
        if seen is not None and seen.app.status is not AppStatus.STOPPING:
            self.stopped.append(name)
            self._feeds[name] = replace(seen, app=replace(seen.app, status=AppStatus.STOPPING))

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("the feeds are away", where="fake feeds", remedy="bring them back")
