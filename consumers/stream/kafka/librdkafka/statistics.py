"""What librdkafka says of itself, and what that means for a member of a group."""

from __future__ import annotations

import json
import time

from confluent_kafka import KafkaError

COORDINATOR = "GroupCoordinator"
US = 1_000_000


class ClientStatistics:
    """The last statistics, and the fatal error where there was one. Its callbacks are called on the thread that polls.

    `limit_s` is how long the group's broker may say nothing.
    """

    def __init__(self, group: str, limit_s: float) -> None:
        self._group, self._limit_s = group, limit_s
        self._joined = self._up = False
        self._answered_s = time.monotonic()  # when the group's broker last said something
        self.fatal: KafkaError | None = None

    def on_stats(self, text: str) -> None:
        """Called by the client with its statistics, twice a second."""
        statistics = json.loads(text)
        group = statistics.get("cgrp", {})
        self._up, self._joined = group.get("state") == "up", group.get("join_state") == "steady"
        for broker in statistics.get("brokers", {}).values():
            if broker["name"] == COORDINATOR and broker["state"] == "UP":
                self._answered_s = time.monotonic() - broker["rxidle"] / US

    def on_error(self, error: KafkaError) -> None:
        """Called by the client; with all that is not fatal it deals by itself."""
        if error.fatal():
            self.fatal = error

    def answered_since(self, moment_s: float) -> bool:
        """Whether the group's broker has answered anything since then (monotonic): heartbeats go on all the time."""
        return self._answered_s > moment_s

    def trouble(self, *, owning: bool) -> str:
        """Why no records can come; empty where all is well. A member that owns partitions works on while the group changes."""
        if not (self._joined or owning):
            return f"joining the group {self._group}"
        silent_s = time.monotonic() - self._answered_s
        if silent_s <= self._limit_s:
            return "" if self._up else f"looking for the broker that keeps the group {self._group}"
        return f"the broker has not answered the group's heartbeat for {silent_s:.0f} s"
