"""Which replica a call of a handle goes to: the one that has the least of this process's calls under way.

Serve's own draw takes the better of two at random, which leaves one of few replicas idle beside a busy one. What others send is
in a replica's queue, as Serve heard it last: it decides between those of which this process has as many calls.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

DRAWN = 8  # of more replicas, so many are looked at
MEANT_S = 0.1  # a call that was not sent so long after its choice is not sent there any more


class LeastBusyRouter(FIFOMixin, RequestRouter):
    """One a handle, made by Serve and used on the handle's event loop; calls by lines are told from another thread, maybe."""

    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)  # type: ignore[no-untyped-call]
        self._sent: dict[ReplicaID, int] = {}
        self._meant: dict[str, tuple[ReplicaID, float]] = {}  # by request: chosen then, and sent a turn of the loop later
        self._by_line: dict[Hashable, int] = {}
        self._lock = threading.Lock()  # of a process's handle of an app there is one, whoever has lines

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The least busy one that takes calls, and the others for where it is full."""
        drawn = random.sample(candidate_replicas, min(DRAWN, len(candidate_replicas)))
        if not drawn:
            return []
        if pending_request is not None:
            # Else Serve asks full ones again at once, for as long as they are full.
            pending_request.routing_context.should_backoff = True
        request = pending_request.metadata.internal_request_id if pending_request is not None else ""
        now_s = self._clock()
        # A request that asks again, or was given up meanwhile, is meant for nobody.
        self._meant = {one: what for one, what in self._meant.items() if one != request and now_s - what[1] < MEANT_S}
        queued, ids = self.replica_queue_len_cache.get, [replica.replica_id for replica in drawn]
        order = [place[2] for place in sorted((self._own(one), queued(one) or 0, at) for at, one in enumerate(ids))]
        best = next((at for at in order if self._takes_calls(drawn[at])), order[0])
        # One that was full, or of which nothing was heard for long, is asked meanwhile: a call that waits for it waits 100 ms.
        first = dict.fromkeys((best, order[0]))
        self._meant[request] = ids[best], now_s
        return [[drawn[at] for at in first], [drawn[at] for at in order if at not in first]]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """See RequestRouter."""
        super().on_send_request(replica_id)
        meant = next((request for request, (replica, _) in self._meant.items() if replica == replica_id), None)
        if meant is not None:
            del self._meant[meant]
        self._sent[replica_id] = self._sent.get(replica_id, 0) + 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """See RequestRouter."""
        super().on_request_completed(replica_id, internal_request_id)
        _less(self._sent, replica_id)

    def began_by_line(self, replica_id: Hashable) -> None:
        """A call that Serve does not carry is under way there."""
        with self._lock:
            self._by_line[replica_id] = self._by_line.get(replica_id, 0) + 1

    def ended_by_line(self, replica_id: Hashable) -> None:
        """It is no more."""
        with self._lock:
            _less(self._by_line, replica_id)

    def _takes_calls(self, replica: RunningReplica) -> bool:
        """As Serve heard it last; nothing heard is no."""
        queued = self.replica_queue_len_cache.get(replica.replica_id)
        return queued is not None and queued < replica.max_ongoing_requests

    def _own(self, replica_id: ReplicaID) -> int:
        meant = [replica for replica, _ in self._meant.values()].count(replica_id)
        return meant + self._sent.get(replica_id, 0) + self._by_line.get(replica_id, 0)


def _less(counts: dict[Any, int], replica: Hashable) -> None:
    """One less there; what has none is not kept."""
    left = counts.get(replica, 0) - 1
    if left > 0:
        counts[replica] = left
    else:
        counts.pop(replica, None)
