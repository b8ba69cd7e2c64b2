"""What a real API server says of what helm makes of the chart: by its dry run, which does all but the storing, strictly."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import yaml

from tests.kubernetes.conftest import add_node
from tests.kubernetes.release import grant_in
from tests.support.control_plane import ControlPlane
from tests.support.helm import CHART, FOREIGN, MANIFESTS, VALUES, helm, rendered, values_of
from tests.support.kube_api import KubeApi, Refused, connected

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]
GPUS = ("workers.gpu.enabled=true", "workers.gpu.gpuNodesComeLater=false", "metrics.serviceMonitor.enabled=false")


def expect_taken(api: KubeApi, documents: list[dict[str, object]]) -> None:
    """All but what is of Prometheus' operator, whose kinds this API server does not have."""
    ours = [one for one in documents if one["apiVersion"] not in FOREIGN]
    assert ours
    for document in ours:
        api.apply(document, dry_run=True)


@pytest.mark.parametrize("example", ["small", "full"])
@pytest.mark.parametrize("sets", VALUES, ids=lambda sets: ",".join(sets)[:50])
def test_whatever_is_set_the_api_server_takes_it(api: KubeApi, example: str, sets: tuple[str, ...]) -> None:
    expect_taken(api, rendered(*sets, example=example))


def test_it_takes_the_manifests_for_those_without_helm(api: KubeApi) -> None:
    expect_taken(api, [one for one in yaml.safe_load_all(MANIFESTS.read_text(encoding="utf-8")) if one])


def test_what_is_misspelt_or_forbidden_is_refused(api: KubeApi) -> None:
    """By Kubernetes' strict reading, and by the rules (CEL) that KubeRay has in its definitions."""
    (cluster,) = (one for one in rendered() if one["kind"] == "RayCluster")
    misspelt = copy.deepcopy(cluster)
    misspelt["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycel"] = {}
    with pytest.raises(Refused, match="lifecycel"):
        api.apply(misspelt, dry_run=True)
    forbidden = copy.deepcopy(cluster)
    forbidden["spec"]["managedBy"] = "nobody"
    with pytest.raises(Refused, match="managedBy"):
        api.apply(forbidden, dry_run=True)


@pytest.fixture
def member(plane: ControlPlane, api: KubeApi) -> Iterator[KubeApi]:
    """One who may work in the namespace `team` alone, and sees no node."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    grant_in(api.within("team"))
    with connected(plane.url, plane.pki.ca, "member", "team") as one:
        yield one


def tried(plane: ControlPlane, user: str, *sets: str) -> str:
    """What helm says where that user would install the chart, with the cluster's own words in it; empty where he could."""
    words = ("--dry-run=server", "--namespace", "team", "--kubeconfig", str(plane.kubeconfig(user)), *values_of(*sets))
    done = helm("install", "headrace", str(CHART), *words)
    return "" if done.returncode == 0 else done.stderr


def test_gpus_that_no_node_has_are_refused_in_words_and_taken_where_one_has_them(
    plane: ControlPlane, api: KubeApi, member: KubeApi
) -> None:
    assert "no node has nvidia.com/gpu: install the device plugin" in tried(plane, "admin", *GPUS)
    add_node(api, "node-gpu", "a", **{"nvidia.com/gpu": "2"})
    try:
        assert tried(plane, "admin", *GPUS) == ""
    finally:
        api.delete("v1", "Node", "node-gpu")


def test_who_sees_no_nodes_installs_where_gpus_come_later(plane: ControlPlane, member: KubeApi) -> None:
    with pytest.raises(Refused, match="cannot list resource"):
        member.all_of("v1", "Node")
    assert tried(plane, "member", *GPUS, "workers.gpu.gpuNodesComeLater=true") == ""
