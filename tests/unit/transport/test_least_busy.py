"""Which replica a call goes to, without Serve around it."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.request_router import PendingRequest

from deployments.transport.least_busy import DRAWN, MEANT_S, LeastBusyRouter


@dataclass(frozen=True)
class OneReplica:
    """Of a running one, what a choice looks at."""

    replica_id: str
    max_ongoing_requests: int = 100


class Queues(dict[str, int]):
    """Serve's cache: what it heard last of each replica's queue."""

    def update(self, replica_id: str, length: int) -> None:  # type: ignore[override]
        self[replica_id] = length


def request_of(name: str) -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(internal_request_id=name), routing_context=SimpleNamespace(should_backoff=False)
    )


class Router(LeastBusyRouter):
    """Without what Serve sets up around it."""

    def __init__(self) -> None:
        self._sent, self._meant, self._by_line, self._lock = {}, {}, {}, threading.Lock()
        self.now_s = 0.0
        self._clock = lambda: self.now_s
        self.requests = itertools.count()
        self.queues = Queues()
        self._use_replica_queue_len_cache = False
        self.pauses: list[int] = []
        self.num_routing_tasks_in_backoff = 0
        self.num_routing_tasks_in_backoff_gauge: Any = SimpleNamespace(set=lambda _: None)

    async def _backoff(self, attempt: int) -> None:
        self.pauses.append(attempt)

    @property
    def replica_queue_len_cache(self) -> Any:
        return self.queues

    def chosen(self, replicas: int = 4, *, send: bool = True, request: str = "") -> str:
        there = [OneReplica(f"r{number}") for number in range(replicas)]
        (best, *asked), others = asyncio.run(self.choose_replicas(there, request_of(request or f"call {next(self.requests)}")))
        assert len({best, *asked, *others}) == min(replicas, DRAWN)
        if send:
            self.on_send_request(best.replica_id)
        return str(best.replica_id)


@pytest.fixture
def router() -> Router:
    return Router()


def test_calls_are_spread_evenly(router: Router) -> None:
    assert Counter(router.chosen() for _ in range(12)) == {f"r{number}": 3 for number in range(4)}


def test_the_one_that_answered_is_next(router: Router) -> None:
    for _ in range(8):
        router.chosen()
    router.on_request_completed("r2", "a")
    assert router.chosen() == "r2"


def test_what_is_chosen_and_not_sent_yet_counts_and_is_forgotten_in_time(router: Router) -> None:
    assert {router.chosen(2, send=False), router.chosen(2, send=False)} == {"r0", "r1"}
    router.on_send_request("r0")
    router.now_s = MEANT_S
    assert router.chosen(2) == "r1"


def test_a_request_that_asks_again_and_again_is_meant_for_one(router: Router) -> None:
    for _ in range(50):
        router.chosen(2, send=False, request="waits for room")
    assert len({router.chosen(3), router.chosen(3)}) == 2  # not both to r2, as if fifty were on their way


def test_calls_by_lines_count(router: Router) -> None:
    for name in ("r0", "r1", "r3"):
        router.began_by_line(name)
    assert router.chosen() == "r2"
    router.ended_by_line("r3")
    assert router.chosen() == "r3"


def test_among_equals_the_shortest_queue_decides(router: Router) -> None:
    router.queues |= {"r0": 3, "r1": 1, "r2": 2, "r3": 5}
    assert [router.chosen() for _ in range(4)] == ["r1", "r2", "r0", "r3"]


def test_of_many_only_some_are_looked_at_and_of_none_none(router: Router) -> None:
    seen = {router.chosen(40) for _ in range(200)}
    assert len(seen) == 40
    assert asyncio.run(router.choose_replicas([])) == []


def test_more_ends_than_begins_leave_no_debt(router: Router) -> None:
    router.on_request_completed("r0", "a")
    router.on_request_completed("r0", "b")
    assert {router.chosen(2), router.chosen(2)} == {"r0", "r1"}


def test_where_all_are_full_a_request_pauses_before_it_asks_again(router: Router) -> None:
    async def asks() -> None:
        there: Any = {f"r{number}": OneReplica(f"r{number}") for number in range(4)}
        about: Any = SimpleNamespace(internal_request_id="waits for room", multiplexed_model_id="")
        router._replicas, router._replicas_list = there, list(there.values())
        ranks = router._choose_replicas_with_backoff(PendingRequest([], {}, about))
        for _ in range(8):  # two ranks each time
            await anext(ranks)
        await ranks.aclose()

    asyncio.run(asks())
    assert router.pauses == [0, 1]


@pytest.mark.parametrize("heard", [{}, {"r1": 2}], ids=["nothing was heard of it", "full"])
def test_a_call_does_not_wait_for_one_that_may_not_take_it(router: Router, heard: dict[str, int]) -> None:
    router.queues |= {"r0": 1, "r2": 1, **heard}
    for name in ("r0", "r2"):
        router.began_by_line(name)
    there: Any = [OneReplica(f"r{number}", max_ongoing_requests=2) for number in range(3)]
    (best, asked), (other,) = asyncio.run(router.choose_replicas(there, request_of("a")))
    assert asked.replica_id == "r1"
    assert {best.replica_id, other.replica_id} == {"r0", "r2"}
    assert router._own(best.replica_id) == 2


def test_calls_by_lines_are_told_from_any_thread(router: Router) -> None:
    def tell() -> None:
        for _ in range(20_000):
            router.began_by_line("r0")
            router.ended_by_line("r0")

    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=tell) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual_s)
    assert router._by_line == {}
