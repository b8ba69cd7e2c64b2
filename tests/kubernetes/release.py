"""The chart in a namespace of its own: by one who may use that alone, under Kubernetes' strictest standard for Pods."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.control_plane import ControlPlane
from tests.support.helm import CHART, helm, values_of
from tests.support.kube_api import Document, KubeApi
from tests.support.waiting import until

RAY, RIGHTS = "ray.io/v1", "rbac.authorization.k8s.io/v1"
COMES_S = 90.0
# All that the example has, but for a kind that this API server does not know.
SETS = ("metrics.serviceMonitor.enabled=false",)
OF_CLUSTER = "ray.io/cluster=headrace"
GATEWAYS, CPUS = f"{OF_CLUSTER},ray.io/group=gateway", f"{OF_CLUSTER},ray.io/group=cpu"
HEAD = f"{OF_CLUSTER},ray.io/node-type=head"


@dataclass(frozen=True)
class Release:
    """Where it is, with an administrator's connection; helm is asked as the member."""

    plane: ControlPlane
    api: KubeApi

    def helm(self, *words: str) -> str:
        """What it said; it must have done what it was told."""
        kubeconfig = str(self.plane.kubeconfig("member"))
        done = helm(*words, "--namespace", self.api.namespace, "--kubeconfig", kubeconfig, timeout_s=180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> str:
        """With all that the example has. What helm said."""
        return self.helm("install", "headrace", str(CHART), *values_of(*SETS))

    def upgrade(self, *sets: str) -> None:
        """With `sets` over the example's values."""
        self.helm("upgrade", "headrace", str(CHART), *values_of(*SETS, *sets))

    def cluster(self) -> Document:
        """The RayCluster."""
        return self.api.named(RAY, "RayCluster", "headrace")

    def pods(self, selector: str, count: int) -> list[Document]:
        """So many Pods, as soon as they have been made."""
        until(lambda: len(self.api.pods(selector)) == count, COMES_S)
        return self.api.pods(selector)


def release_in(plane: ControlPlane, api: KubeApi, namespace: str) -> Release:
    """A namespace for a release, and the member's right to work in it."""
    strict = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": strict}})
    here = api.within(namespace)
    grant_in(here)
    return Release(plane, here)


def grant_in(api: KubeApi) -> None:
    """What a team has in a namespace of its own: RayClusters, and what Kubernetes makes its role `edit` of a moment later."""
    rule = {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["*"]}
    api.apply({"apiVersion": RIGHTS, "kind": "Role", "metadata": {"name": "rays-clusters"}, "rules": [rule]})
    edit = [("ClusterRole", f"system:aggregate-to-{one}") for one in ("edit", "view")]
    for kind, name in (("Role", "rays-clusters"), *edit):
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        members = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "members"}
        bound = {"apiVersion": RIGHTS, "kind": "RoleBinding", "metadata": {"name": name}}
        api.apply(bound | {"roleRef": role, "subjects": [members]})


def uids(pods: list[Document]) -> set[str]:
    """Which Pods they are."""
    return {pod["metadata"]["uid"] for pod in pods}
