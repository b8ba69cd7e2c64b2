"""Partitions that nobody in the group reads: found, and dealt out.

Static members come back to their old partitions without a rebalance. What was added to the topics while the whole group was down
would be nobody's then, for ever: no client notices a partition that was there when it began.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka.admin import KafkaAdminClient, MemberToRemove  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_python.client import topics_of
from consumers.stream.log.port import Member, Partition
from consumers.stream.spec import StreamInput

FIRST_LOOK_S = 2.0
CONFIRM_S = 2.0
AGAIN_S = 5.0
# Clients that run find a partition that is added within ten seconds by themselves.
AFTER_GROWTH_S = 20.0

logger = logging.getLogger(__name__)


class Unassigned:
    """Of one member, from when it owns something. Called from one thread."""

    def __init__(self, member: Member, chosen: StreamInput) -> None:
        self._member, self._chosen = member, chosen
        self._next_s: float | None = time.monotonic() + FIRST_LOOK_S
        self._unread: set[Partition] = set()

    def expect_growth(self) -> None:
        """A topic has more partitions than it had."""
        self._next_s = time.monotonic() + AFTER_GROWTH_S

    def look(self, admin: KafkaAdminClient) -> bool:
        """Looks where it is time to; where there are some, the first member joins anew, so that all are dealt out.

        False where it could not see. The client remembers for good which broker keeps the group: that one may be gone, or keep it
        no more, so the next question is for another client.
        """
        if self._next_s is None or time.monotonic() < self._next_s:
            return True
        self._next_s = time.monotonic() + AGAIN_S
        try:
            group = admin.describe_groups([self._member.group])[self._member.group]
            trouble = group["error"]
            if trouble is None and group["group_state"] == "Stable":
                self._deal_out(admin, group["members"])
        except KafkaError as error:  # it may lack the right to look; all else goes on
            trouble = repr(error)
        if trouble is not None:
            logger.warning("%s can't see whether all partitions are read: %s", self._member.group, trouble)
            self._next_s = time.monotonic() + 10 * AGAIN_S
        return trouble is None

    def _deal_out(self, admin: KafkaAdminClient, members: list[dict[str, Any]]) -> None:
        names = list(self._chosen.names) or [name for name in admin.list_topics() if self._chosen.reads(name)]
        there = {Partition(name, n) for name, topic in topics_of(admin, names).items() for n in range(topic.partitions)}
        unread = there - {partition for member in members for partition in _read_by(member)}
        # One look is not enough: between the two rounds of a rebalance what moves is nobody's.
        still, self._unread = unread & self._unread, unread
        if not unread:
            self._next_s = None
        elif not still:
            self._next_s = time.monotonic() + CONFIRM_S
        elif self._member.instance == min(each["group_instance_id"] for each in members if each["group_instance_id"]):
            logger.info("%s: nobody reads %s; joining anew", self._member.group, sorted(still))
            admin.remove_group_members(self._member.group, [MemberToRemove(group_instance_id=self._member.instance)])


def _read_by(member: Mapping[str, Any]) -> list[Partition]:
    assigned = member["member_assignment"]
    if not isinstance(assigned, Mapping):  # it has none, or one that is no consumer's
        return []
    return [Partition(each["topic"], number) for each in assigned["assigned_partitions"] for number in each["partitions"]]
