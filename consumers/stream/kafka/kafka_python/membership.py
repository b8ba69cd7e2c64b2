"""A kafka-python consumer's place in its group: what it knows of that and does not say.

It polls in vain where its broker is away, or a topic may not be seen; where another member took its name, it only stops its
heartbeats; and a rebalance that ends between two polls, or that nothing calls for any more, it forgets.
"""

from __future__ import annotations

import time
from typing import Any

from kafka import KafkaConsumer  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)

from cluster.errors import Conflict
from consumers.stream.kafka.kafka_python.inside import Coordination

ASK_EVERY_S = 1.0


class Membership:
    """One consumer's place in its group. `limit_s` is how long the broker may leave heartbeats unanswered. Not thread-safe."""

    def __init__(self, consumer: KafkaConsumer, limit_s: float) -> None:
        self._consumer = consumer
        self._coordination = Coordination(consumer)
        self._limit_s = limit_s
        self._asked_s = 0.0

    @property
    def settled(self) -> bool:
        """Whether no rebalance is under way, as far as this member knows."""
        return self._coordination.stable

    @property
    def silent_s(self) -> float:
        """For how long the group's broker has not answered."""
        return time.monotonic() - self._coordination.answered_s

    def trouble(self) -> str:
        """Why no records can come; empty where all is well. Asks nobody."""
        metadata = self._consumer.group_metadata()
        if metadata.generation_id < 0:
            return f"joining the group {metadata.group_id}"
        silent_s = self.silent_s
        return f"the broker has not answered the group's heartbeat for {silent_s:.0f} s" if silent_s > self._limit_s else ""

    def look(self) -> None:
        """To be called before each poll, in its thread: sees to it that no rebalance is lost.

        Asks whether the name is still ours, but only in trouble, and once a second at most. Raises as `check_name`, and
        KafkaError where a topic may not be seen.
        """
        inside = self._coordination
        if topics := inside.unseen_topics:
            inside.look_at_topics_again()  # the right may be given meanwhile
            raise TopicAuthorizationFailedError(topics)
        if inside.join is not None:
            # What called for it may be gone by now, as where it was the topics that have changed: then no poll would look at it
            # again, and the member would stand between two generations, without a heartbeat, for ever.
            inside.need_join()
            if not isinstance(inside.join, _KeptJoin):
                inside.join = _KeptJoin(inside.join)
        now_s = time.monotonic()
        if self.silent_s > self._limit_s and now_s - self._asked_s > ASK_EVERY_S:
            self._asked_s = now_s
            self.check_name()

    def check_name(self) -> None:
        """Asks the broker. Raises Conflict where another member took this one's name, and KafkaError where it can't be asked."""
        if not self.settled or not self._coordination.found:
            return  # the next poll joins, which is refused where the name is taken
        try:
            self._coordination.heartbeat()
        except FencedInstanceIdError as error:
            raise Conflict(
                "another member of this name took over", where=self._coordination.name, remedy="end this one"
            ) from error
        except (RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError):
            return  # the next poll joins again


class _KeptJoin:
    """A join that is not taken for done before a poll has its result.

    Of one that was done as the poll began the client forgets the result and joins anew, at which all others have to as well: two
    members that were polled in turn did this for ever (kafka-python 3.0.12). Of a join that failed the poll raises the error: a
    KafkaError makes the client forget the join, anything else ends the worker, and the client with it.
    """

    is_done = False

    def __init__(self, join: Any) -> None:
        self._join = join

    def __await__(self) -> Any:
        return self._join.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._join, name)
