"""Partitions that nobody in the group reads: found, and dealt out.

Static members come back to their old partitions without a rebalance. What was added to the topics while the whole group was down
would be nobody's then, for ever: no client notices a partition that was there when it began.
"""

from __future__ import annotations

import logging
import time

from kafka.admin import KafkaAdminClient, MemberToRemove  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_client import topics_of
from consumers.stream.log import Member, Partition
from consumers.stream.spec import Input

FIRST_LOOK_S = 2.0
AGAIN_S = 5.0
# Clients that run find a partition that is added within ten seconds by themselves.
AFTER_GROWTH_S = 20.0

logger = logging.getLogger(__name__)


class Unassigned:
    """Of one member, from when it owns something. Called from one thread."""

    def __init__(self, member: Member, chosen: Input) -> None:
        self._member, self._chosen = member, chosen
        self._next_s: float | None = time.monotonic() + FIRST_LOOK_S

    def expect_growth(self) -> None:
        """A topic has more partitions than it had."""
        self._next_s = time.monotonic() + AFTER_GROWTH_S

    def look(self, admin: KafkaAdminClient) -> None:
        """Looks where it is time to; where there are some, the first member joins anew, so that all are dealt out."""
        if self._next_s is None or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + AGAIN_S
        try:
            group = admin.describe_groups([self._member.group])[self._member.group]
            if group["error"] is None and group["group_state"] == "Stable":
                self._deal_out(admin, group["members"])
        except KafkaError as error:  # it may lack the right to look; all else goes on
            logger.warning("%s can't see whether all partitions are read: %r", self._member.group, error)
            self._next_s = time.monotonic() + 10 * AGAIN_S

    def _deal_out(self, admin: KafkaAdminClient, members: list[dict]) -> None:  # type: ignore[type-arg]
        names = list(self._chosen.names) or [name for name in admin.list_topics() if self._chosen.reads(name)]
        there = {Partition(name, n) for name, topic in topics_of(admin, names).items() for n in range(topic.partitions)}
        read = {
            Partition(each["topic"], number)
            for member in members
            for each in (member["member_assignment"] or {}).get("assigned_partitions", ())
            for number in each["partitions"]
        }
        if there <= read:
            self._next_s = None
        elif self._member.instance == min(str(member["group_instance_id"]) for member in members):
            logger.info("%s: nobody reads %s; joining anew", self._member.group, sorted(there - read))
            admin.remove_group_members(self._member.group, [MemberToRemove(group_instance_id=self._member.instance)])
