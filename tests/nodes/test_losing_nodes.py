"""A cluster of several machines that loses them: one that leaves, one that is killed, and the head. `make nodes`, as root.

Each test prints how long it took until all was there again. A stream has records to answer all the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.commands.versions import RegisterVersion
from consumers.batch.write.publish import read_manifest
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_parts import published, write_dataset
from tests.support.models import slow_artifact
from tests.support.net_nodes import STARTS_S, NetNode
from tests.support.node_service import AWAY, Callers, NodeService, node_service, tell, write_batch
from tests.support.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]
RECORDS = 20  # four times a second
LATE = 10


@pytest.fixture(scope="module")
def service(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeService]:
    with node_service(postgres_server, tmp_path_factory.mktemp("nodes")) as made:
        yield made


def call(service: NodeService, node: NetNode, times: int) -> None:
    """So many calls at that node's door, each of which is answered."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        for _ in range(times):
            service.ask(node, client)


def test_the_doctor_finds_a_cluster_that_can_carry_it(service: NodeService) -> None:
    told = service.head.run("doctor", "--json", RAY_ADDRESS=service.address, HEADRACE_URL=service.url(service.workers[1]))
    found = json.loads(told.stdout)
    members = found["seen"]["members"]
    assert {member["address"] for member in members} >= {node.address for node in (service.head, *service.workers)}
    assert all(abs(member["clock"]["ahead_s"]) < 1 + member["clock"]["error_s"] for member in members)
    assert {why for member in members for why in member["machine"]["reaches"].values()} == {""}
    assert [
        problem for problem in found["problems"] if problem["check"] in ("versions", "variables", "ports", "shared paths")
    ] == []


@pytest.mark.proof
def test_both_gateways_tell_the_same_exact_sums(service: NodeService) -> None:
    one, other = service.workers
    before = service.settled_requests(one)
    call(service, one, 30)
    call(service, other, 20)
    until(lambda: service.requests(one) >= before + 50, STARTS_S, every_s=0.5, trouble=AWAY)
    assert (service.settled_requests(one), service.settled_requests(other)) == (before + 50, before + 50)


def test_a_node_that_leaves_costs_no_call(service: NodeService) -> None:
    leaving, staying = service.workers
    fresh = service.another()
    with service.topics.load(RECORDS), Callers(service, [leaving, staying]) as callers:
        callers.await_more(20)
        assert service.streams_on(leaving)
        callers.nodes.remove(leaving)  # as a Service does with a Pod that is told to end
        begun = time.monotonic()
        left = leaving.run("leave", "--within", "200", "--json", RAY_ADDRESS=service.address)
        took_s = time.monotonic() - begun
        assert left.returncode == 0, left.stderr
        leaving.kill()
        service.await_answers(fresh)
        again_s = time.monotonic() - begun
        callers.nodes.append(fresh)
        until(service.caught_up, STARTS_S, every_s=0.2)
        streams_s = time.monotonic() - begun
        callers.await_more(20)
    service.workers[:] = [fresh, staying]
    failed = f"{len(callers.failed)} of {callers.calls} calls failed"
    tell(f"a node left in {took_s:.1f} s, another gateway answers after {again_s:.1f} s: {failed}")
    tell(f"its stream has caught up at {streams_s:.1f} s")
    assert callers.failed == []
    service.settle_stream()


@pytest.mark.proof
def test_a_node_that_is_killed_costs_the_calls_under_way_there(service: NodeService, tmp_path: Path) -> None:
    killed, staying = service.workers
    fresh = service.another()
    uri, digest, manifest = slow_artifact(tmp_path / "artifacts", model="slow")
    total, output = write_dataset(tmp_path / "in", files=15), tmp_path / "out"
    about = {"engine": manifest.engine, "signature": manifest.signature}
    service.control.register_version(RegisterVersion(model="slow", artifact_uri=uri, digest=digest, **about))
    document, units = write_batch(tmp_path, "slow", tmp_path / "in", output), RunHistory(locate(str(output)))
    counted, answered, unsure = service.settled_requests(staying), service.answered, service.unsure
    call(service, killed, 3 * LATE)
    service.settled_requests(staying)  # so all of these are told
    with service.topics.load(RECORDS), Callers(service, [staying]) as callers:
        callers.await_more(20)
        assert service.streams_on(killed)
        batch = service.start_batch(document, output)
        until(lambda: batch.poll() is not None or (bool(units.all()) and units.all()[-1].done() > 0), STARTS_S)
        until(lambda: batch.poll() is not None or bool(killed.named("ray::Map")), STARTS_S)
        call(service, killed, LATE)  # of which its gateway may not have told yet
        done = units.all()[-1].done()
        begun = time.monotonic()
        killed.kill()
        service.await_answers(fresh)
        again_s = time.monotonic() - begun
        until(service.caught_up, STARTS_S, every_s=0.2)
        streams_s = time.monotonic() - begun
        callers.await_more(20)
    service.workers[:] = [fresh, staying]
    tell(f"a killed node is replaced after {again_s:.1f} s: {len(callers.failed)} of {callers.calls} calls elsewhere failed")
    assert len(callers.failed) <= 2, callers.failed  # one a caller: those that its replica had
    assert batch.wait(STARTS_S) == 0, (service.network.folder / "out.log").read_text(encoding="utf-8")
    ended = read_manifest(units.all()[-1])
    batch_s = time.monotonic() - begun
    tell(f"its stream has caught up at {streams_s:.1f} s, the batch ({done} of 45 units were done) at {batch_s:.1f} s")
    assert done < 45
    assert (ended.rows, ended.written, ended.quarantined) == (total, total, 0)
    assert published(output)["id"].to_pylist() == list(range(total))
    service.settle_stream()
    told = service.settled_requests(staying) - counted
    calls = service.answered - answered
    tell(f"of {calls} calls that were answered, the sums lack {calls - told:.0f}; {LATE} were the killed gateway's last")
    assert calls - LATE <= told <= calls + service.unsure - unsure
    assert service.requests(fresh) == service.requests(staying)


def test_a_new_head_deploys_all_from_the_store_by_itself(service: NodeService) -> None:
    begun = time.monotonic()
    with service.topics.load(RECORDS):
        service.end_head()
        for node in service.workers:  # as KubeRay does with Pods whose Ray has ended
            node.kill()
        service.start_head()
        for node in service.workers:
            service.join(node)
        service.await_answers(*service.workers, limit_s=2 * STARTS_S)
        again_s = time.monotonic() - begun
        until(service.caught_up, STARTS_S, every_s=0.2)
        streams_s = time.monotonic() - begun
    tell(f"after the death of the head both doors answer again after {again_s:.1f} s, its stream catches up at {streams_s:.1f} s")
    service.settle_stream()
