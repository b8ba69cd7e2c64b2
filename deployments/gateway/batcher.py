"""Requests that arrive together are scored together.

A lane holds what may share a call: one model, one version, one form of tensors. During a rollout the split comes first, so
that nobody whom the stable version answers waits for the candidate. An idle lane starts at once; while its call is under way,
arrivals gather, and the next call takes them all, up to `max_batch_rows`. So the batch grows with the load and nobody waits for
company.

A call costs about the same for one row as for many, so few calls make the most of the machine: a second is made beside the first
only for who has waited `gather_s`, the latency target. Where somebody waits long all the same, more are made, up to what the
model's replicas bear: that is also how Serve sees that it should start another.

Not every version's calls cost the same: where rows are dear, all that waits in one call would keep one replica busy and leave the
others idle, and its callers, who come back together, would stay together for good. What a call costs by its rows is learnt
(`call_cost.py`); what waits goes to several replicas then, as soon as it is worth a call of its own.

A candidate has a small share of the keys, and would find its lane idle at nearly every one: its calls begin
`candidate_apart_s` apart, and `candidate_crowd_apart_s` while many ask at a time. Calls to replicas keep `crowd_apart_s` then: a
call costs as much as two requests.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import TooLarge
from cluster.routing.routes import Route
from cluster.routing.split import goes_to_candidate
from deployments.engines.datatypes import Array
from deployments.gateway.lanes import BatchLimits, CallsSeen, Lane, LaneKey
from deployments.gateway.request_meter import RequestMeter
from deployments.gateway.statistics import Statistics
from deployments.scoring.port import Scored, Scorer


class Batcher:
    """Gathers the requests of one event loop into calls of a scorer. Counts those that were answered."""

    def __init__(self, scorer: Scorer, limits: BatchLimits, statistics: Statistics, requests: RequestMeter) -> None:
        self._scorer = scorer
        self._limits = limits
        self._statistics = statistics
        self._requests = requests
        self._lanes: dict[LaneKey, Lane] = {}
        # What was seen of a lane's calls, by model and version: lanes come and go.
        self._seen: dict[tuple[str, int | None, bool], CallsSeen] = {}

    async def score(
        self,
        route: Route,
        version: int | None,
        tensors: Mapping[str, Array],
        key: bytes,
        *,
        timeout_s: float,
        caller: str = "",
    ) -> Scored:
        """Scores one request, whose tensors met the signature and have the same n rows; all rows carry `key`. A rollout counts
        them as the `caller`'s too, if he has a name.

        Raises what Scorer.score raises; TooLarge for too many rows; NoCapacity at once where the queue is full or would take
        longer than `timeout_s`.
        """
        names = sorted(tensors)
        rows = len(tensors[names[0]])
        if rows > self._limits.request_rows:
            what = f"it has {rows} rows, and a request may have {self._limits.request_rows}"
            raise TooLarge(what, where="request", remedy="send fewer rows a request, or run a batch")
        candidate = (
            version is None and route.candidate is not None and goes_to_candidate(key, salt=route.salt, weight=route.weight)
        )
        lane_key = LaneKey(
            route.model, version, candidate, tuple([(name, tensors[name].dtype.char, tensors[name].shape[1:]) for name in names])
        )
        lane = self._lanes.get(lane_key)
        if lane is None:
            seen = self._seen.setdefault(lane_key[:3], CallsSeen())
            lane = self._lanes[lane_key] = Lane(
                lane_key,
                self._let_go,
                self._scorer,
                self._limits,
                self._statistics,
                self._requests,
                seen,
                route.serving,
                route.stable,
            )
        lane.serving = route.serving
        lane.version = version or (route.candidate if candidate and route.candidate is not None else route.stable)
        lane.judged = bool(route.stage) and version is None
        return await lane.score(tensors, rows, key, timeout_s, caller)

    def _let_go(self, lane: Lane) -> None:
        """Of an idle one nothing is kept: callers decide how many forms of tensors there are."""
        if self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]
