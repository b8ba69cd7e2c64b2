"""The Pods that KubeRay's operator makes of the chart, and of its upgrades. The tests tell one story, in their order."""

from __future__ import annotations

import pytest

from tests.kubernetes.release import COMES_S, CPUS, GATEWAYS, HEAD, OF_CLUSTER, RAY, RIGHTS, Release, release_in, uids
from tests.support.control_plane import ControlPlane
from tests.support.kube_api import Document, KubeApi, Refused, connected
from tests.support.waiting import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]
API_ACCESS = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def release(running: tuple[ControlPlane, KubeApi]) -> Release:
    """The chart, installed."""
    made = release_in(*running, "made")
    assert "headrace doctor" in made.install()
    return made


def mounts(container: Document) -> dict[str, str]:
    """Which volume is at which path."""
    return {one["mountPath"]: one["name"] for one in container.get("volumeMounts", ())}


def test_the_operator_makes_all_of_them_and_they_may_run_under_the_strictest_standard(release: Release) -> None:
    release.pods(OF_CLUSTER, 6)
    assert len(release.api.pods(GATEWAYS)) == 3
    assert len(release.api.pods(CPUS)) == 2


def test_the_sidecar_shares_with_ray_what_it_must(release: Release) -> None:
    (head,) = release.api.pods(HEAD)
    (sidecar,) = (one for one in head["spec"]["initContainers"] if one["name"] == "headrace")
    ray = head["spec"]["containers"][0]
    assert sidecar["restartPolicy"] == "Always"
    assert head["spec"]["shareProcessNamespace"] is True
    for path in ("/tmp/ray", "/dev/shm", "/var/lib/headrace"):  # noqa: S108 (where Ray has them)
        assert mounts(sidecar)[path] == mounts(ray)[path]
    token = {one["name"]: one for one in sidecar["env"]}["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert release.api.named("v1", "Secret", token["name"])["data"][token["key"]]


def test_the_autoscaler_alone_may_ask_the_api_server(release: Release) -> None:
    """It reads a token where Kubernetes puts one; nothing else in any Pod has one."""
    with_token = [
        container["name"]
        for pod in release.api.pods(OF_CLUSTER)
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ()))
        if API_ACCESS in mounts(container)
    ]
    assert with_token == ["autoscaler"]
    (head,) = release.api.pods(HEAD)
    (autoscaler,) = (one for one in head["spec"]["containers"] if one["name"] == "autoscaler")
    (volume,) = (one for one in head["spec"]["volumes"] if one["name"] == mounts(autoscaler)[API_ACCESS])
    paths = {
        *(one["serviceAccountToken"]["path"] for one in volume["projected"]["sources"] if "serviceAccountToken" in one),
        *(item["path"] for one in volume["projected"]["sources"] for item in one.get("configMap", {}).get("items", ())),
    }
    assert paths == {"token", "ca.crt"}
    binding = release.api.named(RIGHTS, "RoleBinding", "headrace")
    assert head["spec"]["serviceAccountName"] in [one["name"] for one in binding["subjects"]]


def test_network_policies_are_of_the_pods_that_the_operator_makes(release: Release) -> None:
    def chosen(name: str) -> int:
        policy = release.api.named("networking.k8s.io/v1", "NetworkPolicy", name)
        labels = policy["spec"]["podSelector"]["matchLabels"]
        return len(release.api.pods(",".join(f"{key}={value}" for key, value in labels.items())))

    assert {name: chosen(name) for name in ("headrace", "headrace-callers", "headrace-autoscaler")} == {
        "headrace": 6,
        "headrace-callers": 3,
        "headrace-autoscaler": 1,
    }


def test_an_upgrade_adds_pods_and_replaces_none(release: Release) -> None:
    before = uids(release.pods(OF_CLUSTER, 6))
    release.upgrade("workers.cpu.minReplicas=3")
    after = uids(release.pods(OF_CLUSTER, 7))
    assert before < after
    assert release.api.named("policy/v1", "PodDisruptionBudget", "headrace-cpu")["spec"]["minAvailable"] == 2
    release.upgrade(
        "workers.cpu.minReplicas=3", 'image={"repository":"registry.example.com/team/headrace","tag":"2","digest":""}'
    )
    (lost, *_) = release.api.pods(CPUS)
    release.api.delete("v1", "Pod", lost["metadata"]["name"])
    until(lambda: uids(release.api.pods(CPUS)) - after != set(), COMES_S)
    now = release.pods(OF_CLUSTER, 7)
    assert uids(now) & after == after - uids([lost])  # another image replaces no Pod by itself
    (fresh,) = (pod for pod in now if pod["metadata"]["uid"] not in after)
    assert fresh["spec"]["containers"][0]["image"] == "registry.example.com/team/headrace:2"


def test_an_upgrade_takes_away_no_pod_that_the_autoscaler_asked_for(plane: ControlPlane, release: Release) -> None:
    names = [one["groupName"] for one in release.cluster()["spec"]["workerGroupSpecs"]]
    place = f"/spec/workerGroupSpecs/{names.index('cpu')}/replicas"
    token = release.api.token_of("headrace")
    with connected(plane.url, plane.pki.ca, token, release.api.namespace) as autoscaler:  # with the rights that it has
        autoscaler.replace_at(RAY, "RayCluster", "headrace", place, 5)
        with pytest.raises(Refused, match="cannot list resource"):
            autoscaler.all_of("v1", "Secret")
    before = uids(release.pods(CPUS, 5))
    release.upgrade("workers.cpu.minReplicas=3", 'logs={"form":"json","level":"info"}')
    until(lambda: release.cluster()["status"]["observedGeneration"] == release.cluster()["metadata"]["generation"], COMES_S)
    assert uids(release.pods(CPUS, 5)) == before
