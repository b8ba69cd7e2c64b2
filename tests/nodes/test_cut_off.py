"""A network that parts the head from the workers for a while, and a second controller. `make nodes`, as root.

A cable that is pulled tells nobody: Ray's head takes a machine for dead once five looks of 10 s, 3 s apart, went unanswered; the
workers learn of it when the cable is back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster.errors import HeadraceError
from headrace.client import ControlClient
from headrace.local.home import Home
from headrace.local.home_key import home_key
from tests.support.net_nodes import STARTS_S, NetNode, await_nodes
from tests.support.node_service import (
    MODEL,
    UNHEARD,
    WORKER,
    Callers,
    NodeService,
    node_service,
    start_head,
    start_joined,
    tell,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]
SHORT_S, LONG_S = 8.0, 90.0  # about 65 are Ray's limit
RECORDS = 20
HAS_IT = "another cluster's controller has this store since"


@pytest.fixture(scope="module")
def service(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeService]:
    with node_service(postgres_server, tmp_path_factory.mktemp("nodes"), keep=True) as made:
        yield made


def raylets(*nodes: NetNode) -> set[int]:
    return {pid for node in nodes for pid in node.named("raylet")}


def test_a_short_cut_ends_nothing(service: NodeService) -> None:
    before = raylets(*service.workers)
    assert len(before) == 2
    with service.topics.load(RECORDS), Callers(service, service.workers) as callers:
        callers.await_more(20)
        outputs, begun = service.topics.outputs(), time.monotonic()
        service.head.unplug()
        until(lambda: time.monotonic() - begun > SHORT_S and service.topics.outputs() > outputs + 100, STARTS_S)
        service.head.plug_in()
        healed = time.monotonic()
        service.await_control()
        control_s = time.monotonic() - healed
        await_nodes(service.head, 3)
        callers.await_more(20)
    tell(f"a cut of {healed - begun:.1f} s: {len(callers.failed)} of {callers.calls} calls failed, and the stream went on")
    tell(f"the controller answers again {control_s:.1f} s after it")
    assert callers.failed == []
    assert raylets(*service.workers) == before
    service.settle_stream()


def test_after_a_long_cut_all_comes_back_by_itself(service: NodeService) -> None:
    before = raylets(*service.workers)
    with service.topics.load(RECORDS), Callers(service, service.workers) as callers:
        callers.await_more(20)
        begun = time.monotonic()
        service.head.unplug()
        until(lambda: time.monotonic() - begun > LONG_S, STARTS_S, every_s=0.5)
        outputs = service.topics.outputs()
        until(lambda: service.topics.outputs() > outputs + 100, STARTS_S)
        cut_s, calls, failed = time.monotonic() - begun, callers.calls, list(callers.failed)
        service.head.plug_in()
        healed = time.monotonic()
        until(lambda: not before & raylets(*service.workers), STARTS_S)
        service.await_answers(*service.workers)
        again_s = time.monotonic() - healed
        service.await_control()
        until(service.caught_up, STARTS_S, every_s=0.2)
        streams_s = time.monotonic() - healed
        service.control.scale(MODEL, 2)  # it decides again
    tell(f"a cut of {cut_s:.1f} s: {len(failed)} of {calls} calls failed meanwhile, and the stream went on")
    tell(f"all began anew after it: both doors answer at {again_s:.1f} s, the stream has caught up at {streams_s:.1f} s")
    assert failed == []
    service.settle_stream()


def test_a_worker_that_is_cut_off_is_replaced_and_writes_nothing_when_it_is_back(service: NodeService) -> None:
    """Nobody is told that it has gone, and its processes live: its consumer comes back with records in its hands."""
    lost, staying = service.workers
    fresh = service.another()
    with service.topics.load(RECORDS), Callers(service, [staying]) as callers:
        callers.await_more(20)
        assert service.streams_on(lost)
        begun = time.monotonic()
        lost.unplug()
        service.await_answers(fresh)
        again_s = time.monotonic() - begun
        until(service.caught_up, STARTS_S, every_s=0.2)
        streams_s = time.monotonic() - begun
        lost.plug_in()
        await_nodes(service.head, 4)
        callers.await_more(20)
    service.workers[:] = [fresh, staying]
    tell(f"a worker that is cut off is replaced after {again_s:.1f} s, its stream has caught up at {streams_s:.1f} s")
    tell(f"{len(callers.failed)} of {callers.calls} calls at the other door failed: {callers.failed[:2]}")
    assert len(callers.failed) <= 2, callers.failed
    service.settle_stream()
    lost.kill()


def test_a_controller_on_another_machine_takes_over_where_it_is_told_to_and_the_first_decides_no_more(
    service: NodeService,
) -> None:
    """As where somebody moves the service to another Ray; one that comes to the store by mistake is refused. Both are kept up all
    the time, and neither takes it back."""
    other = service.network.node()
    other.environment["HEADRACE_HOME"] = str(service.network.folder / "another-home")
    home = Home(service.network.folder / "another-home")
    logs = [node.folder / f"{node.namespace}-join.log" for node in (service.head, other)]
    with Callers(service, service.workers) as callers:
        start_head(other, *WORKER)
        mistaken = start_joined(other, service.url(other), 1)
        until(lambda: HAS_IT in logs[1].read_text(), STARTS_S, every_s=0.2)
        assert answers(service.control)
        mistaken.terminate()
        mistaken.wait(60)
        start_joined(other, service.url(other), 1, "--take-over")
        until(home.key.exists, STARTS_S)
        service.await_answers(other)
        with ControlClient(service.url(other), timeout_s=60, token=home_key(home)) as second:
            until(lambda: second.status() is not None, STARTS_S, every_s=0.2, trouble=UNHEARD)
            second.scale(MODEL, 1)
            with pytest.raises(HeadraceError) as refused:
                service.control.scale(MODEL, 3)
            until(lambda: not answers(service.control), STARTS_S, every_s=0.2)
            callers.await_more(50)
            until(lambda: [app.target_replicas for app in second.model(MODEL).apps] == [1], STARTS_S, every_s=0.5)
            until(lambda: HAS_IT in logs[0].read_text(), STARTS_S, every_s=0.2)  # the first one's own `up --join` says so
            assert second.status() is not None
    tell(
        f"the first controller refuses: {refused.value.what}; {len(callers.failed)} of {callers.calls} calls at its doors failed"
    )
    assert callers.failed == []


def answers(control: ControlClient) -> bool:
    try:
        control.status()
    except HeadraceError:
        return False
    return True
