"""The head dies where Ray keeps in a Redis what it knows, as with the chart's `redis.enabled`. `make nodes`, as root."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.net_nodes import STARTS_S, await_nodes
from tests.support.node_service import MODEL, Callers, NodeService, node_service, tell
from tests.support.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]
# As the chart sets them.
VARIABLES = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600", "RAY_SERVE_KV_TIMEOUT_S": "5"}
RECORDS = 20


@pytest.fixture(scope="module")
def service(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeService]:
    with node_service(postgres_server, tmp_path_factory.mktemp("nodes"), redis=True, **VARIABLES) as made:
        yield made


def test_the_head_dies_and_scoring_and_streams_go_on(service: NodeService) -> None:
    def raylets() -> set[int]:
        return {pid for node in service.workers for pid in node.named("raylet")}

    before = raylets()
    with service.topics.load(RECORDS), Callers(service, service.workers) as callers:
        callers.await_more(20)
        begun = time.monotonic()
        service.end_head()
        outputs = service.topics.outputs()
        callers.await_more(200)
        until(lambda: service.topics.outputs() > outputs + 500, STARTS_S)
        without_s, failed = time.monotonic() - begun, list(callers.failed)
        service.start_head()
        ray_s = time.monotonic() - begun
        service.await_control()
        control_s = time.monotonic() - begun
        await_nodes(service.head, 3)
        service.control.scale(MODEL, 1)
        until(lambda: all(app.replicas == 1 for app in service.control.model(MODEL).apps), STARTS_S, every_s=0.5)
        decides_s = time.monotonic() - begun
        service.await_answers(*service.workers)
        callers.await_more(20)
    tell(f"{without_s:.1f} s without a head: {len(failed)} of {callers.calls} calls failed, and the stream went on")
    tell(f"Ray is back at {ray_s:.1f} s, the controller at {control_s:.1f} s; a replica fewer at {decides_s:.1f} s")
    assert failed == []
    assert callers.failed == []
    assert raylets() == before
    service.settle_stream()
