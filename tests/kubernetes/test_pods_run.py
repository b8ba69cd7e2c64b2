"""What Kubernetes' controllers and scheduler do with what the chart and the operator make, on KWOK's nodes: there Pods are said
to run, and nothing does. The tests tell one story, in their order.
"""

from __future__ import annotations

import pytest

from tests.kubernetes.release import COMES_S, GATEWAYS, OF_CLUSTER, RAY, Release, release_in, uids
from tests.support.control_plane import ControlPlane
from tests.support.kube_api import Document, KubeApi, Refused
from tests.support.waiting import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def release(running: tuple[ControlPlane, KubeApi]) -> Release:
    """The chart, installed; two claims would find a disk."""
    made = release_in(*running, "run")
    for number in range(2):
        spec = {"capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": f"/srv/{number}"}}
        made.api.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"disk-{number}"}, "spec": spec})
    made.install()
    return made


def await_ready(release: Release, selector: str, count: int) -> list[Document]:
    """So many Pods, all of them ready."""

    def ready(pod: Document) -> bool:
        return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))

    until(lambda: [ready(pod) for pod in release.api.pods(selector)] == [True] * count, COMES_S)
    return release.api.pods(selector)


def may_go(release: Release, group: str) -> int:
    """How many Pods of a group its budget would let go now."""
    status = release.api.named("policy/v1", "PodDisruptionBudget", f"headrace-{group}").get("status", {})
    return int(status.get("disruptionsAllowed", 0))


def test_all_pods_find_a_node_and_the_home_a_disk(release: Release) -> None:
    await_ready(release, OF_CLUSTER, 6)
    until(lambda: release.cluster()["status"].get("state") == "ready", COMES_S)
    assert release.api.named("v1", "PersistentVolumeClaim", "headrace-home")["status"]["phase"] == "Bound"
    nodes = {pod["spec"]["nodeName"] for pod in release.api.pods(GATEWAYS)}
    assert len(nodes) == 3  # one node that goes does not take all gateways with it


def test_callers_reach_gateways_and_no_other_pod(release: Release) -> None:
    def reached() -> dict[str, set[int]]:
        slices = release.api.all_of("discovery.k8s.io/v1", "EndpointSlice", "kubernetes.io/service-name=headrace-gateway")
        return {
            end["targetRef"]["name"]: {port["port"] for port in one["ports"]}
            for one in slices
            for end in one.get("endpoints") or ()
            if end["conditions"]["ready"]
        }

    wanted = {pod["metadata"]["name"]: {8000, 9000} for pod in await_ready(release, GATEWAYS, 3)}
    until(lambda: reached() == wanted, COMES_S)


def test_drains_take_one_gateway_at_a_time(plane: ControlPlane, release: Release) -> None:
    before = await_ready(release, GATEWAYS, 3)
    until(lambda: may_go(release, "gateway") == 1 and may_go(release, "cpu") == 1, COMES_S)
    with plane.paused("ray-operator"):  # which would put another in its place
        release.api.evict(before[0])
        until(lambda: may_go(release, "gateway") == 0, COMES_S)
        with pytest.raises(Refused, match="disruption budget") as refused:
            release.api.evict(before[1])
        assert refused.value.status == 429
    after = await_ready(release, GATEWAYS, 3)
    assert len(uids(after) & uids(before)) == 2
    until(lambda: may_go(release, "gateway") == 1, COMES_S)


def test_nothing_is_left_but_the_volume_which_the_next_one_takes(release: Release) -> None:
    """With Redis the operator clears it by a job, which needs what the chart made: so the cluster goes first."""
    kinds = [("v1", kind) for kind in ("Pod", "Service", "Secret", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim")]
    kinds += [("policy/v1", "PodDisruptionBudget"), ("networking.k8s.io/v1", "NetworkPolicy"), ("batch/v1", "Job")]
    of_kubernetes = {"default", "kube-root-ca.crt"}

    def left() -> set[str]:
        return {one["metadata"]["name"] for version, kind in kinds for one in release.api.all_of(version, kind)} - of_kubernetes

    release.api.delete(RAY, "RayCluster", "headrace")
    until(lambda: release.api.all_of(RAY, "RayCluster") == [], COMES_S)
    release.helm("uninstall", "headrace")
    until(lambda: left() == {"headrace-home"}, COMES_S)
    volume = release.api.named("v1", "PersistentVolumeClaim", "headrace-home")["spec"]["volumeName"]
    release.install()
    await_ready(release, OF_CLUSTER, 6)
    assert release.api.named("v1", "PersistentVolumeClaim", "headrace-home")["spec"]["volumeName"] == volume
