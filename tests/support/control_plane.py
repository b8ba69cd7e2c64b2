"""A control plane of Kubernetes on this machine: etcd, API server, controllers and scheduler, KubeRay's operator beside them, and
KWOK in place of kubelets: its nodes are ready, and Pods on them run at once, without a process. `make kubernetes` builds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from headrace.local.ports import free_port
from tests.support.certificates import Pki, replace
from tests.support.helm import TOOLS
from tests.support.kube_api import KubeApi, Refused, connected
from tests.support.waiting import until

BUILT = Path(os.environ.get("HEADRACE_CONTROL_PLANE", ".venv-kubernetes")).absolute()
STARTS_S, ENDS_S = 120.0, 20.0
OPERATOR_NAMESPACE = "kuberay-operator"
OPERATOR = f"system:serviceaccount:{OPERATOR_NAMESPACE}:kuberay-operator"
# Who may ask, and the groups each is in. The member may what a test gives him.
USERS = {
    "admin": ("admin", "system:masters"),
    "operator": (OPERATOR, f"system:serviceaccounts,system:serviceaccounts:{OPERATOR_NAMESPACE}"),
    "member": ("member", "members"),
}


@dataclass
class ControlPlane:
    """What runs, where, and as whom to ask."""

    folder: Path
    pki: Pki
    url: str
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, program: str, *words: str, **variables: str) -> None:
        """One of the programs; what it says is in PROGRAM.log of the folder."""
        with (self.folder / f"{program}.log").open("wb") as told:
            self.started[program] = subprocess.Popen(
                [str(BUILT / "bin" / program), *words],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                cwd=self.folder,
                env={**os.environ, "HOME": str(self.folder), **variables},
                start_new_session=True,
            )

    def end(self) -> None:
        """Ends what was started, the last first. Safe to repeat."""
        for process in reversed(self.started.values()):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.started.clear()

    def kubeconfig(self, user: str) -> Path:
        """A file by which helm, or a part of Kubernetes, asks as that user."""
        file = self.folder / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.pki.ca)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": user}}],
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": user}}],
        }
        replace(file, json.dumps(content).encode())
        return file

    @contextlib.contextmanager
    def paused(self, program: str) -> Iterator[None]:
        """One of the programs stands still meanwhile."""
        self.started[program].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.started[program].send_signal(signal.SIGCONT)


def can_run() -> bool:
    """Whether the programs have been built."""
    return (BUILT / ".installed").exists()


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[tuple[ControlPlane, KubeApi]]:
    """All of it, with KubeRay's operator at work, and an administrator's connection to it."""
    plane = ControlPlane(folder, Pki(folder), f"https://127.0.0.1:{free_port()}")
    try:
        _start_api_server(plane)
        with connected(plane.url, plane.pki.ca, "admin", "default") as api:
            until(lambda: api.client.get("/readyz").is_success, STARTS_S, trouble=(httpx.TransportError,))
            _start_controllers(plane)
            _start_operator(plane, api)
            yield plane, api
    finally:
        plane.end()


def _start_api_server(plane: ControlPlane) -> None:
    etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    plane.start(
        "etcd",
        *("--data-dir=etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", "--unsafe-no-fsync"),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"),
        "--log-level=warn",
    )
    certificate, key = plane.pki.issue("api-server")
    _, signing = plane.pki.issue("service-accounts")
    users = "".join(f'{token},{name},{token},"{groups}"\n' for token, (name, groups) in USERS.items())
    replace(plane.folder / "tokens.csv", users.encode())
    plane.start(
        "kube-apiserver",
        *(f"--etcd-servers={etcd}", f"--secure-port={plane.url.rpartition(':')[2]}", "--bind-address=127.0.0.1"),
        *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}", "--token-auth-file=tokens.csv"),
        *("--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--advertise-address=127.0.0.1"),
        *("--service-account-issuer=https://kubernetes.default.svc", "--endpoint-reconciler-type=none"),
        *(f"--service-account-signing-key-file={signing}", f"--service-account-key-file={signing}"),
    )


def _start_controllers(plane: ControlPlane) -> None:
    admin = f"--kubeconfig={plane.kubeconfig('admin')}"
    alone = (admin, "--leader-elect=false", "--secure-port=0")
    plane.start(
        "kube-controller-manager", *alone, f"--root-ca-file={plane.pki.ca}", f"--flex-volume-plugin-dir={plane.folder}/flex"
    )
    plane.start("kube-scheduler", *alone)
    stages = [f"--config={file}" for file in sorted((BUILT / "kwok").glob("*.yaml"))]
    plane.start("kwok", admin, "--manage-all-nodes", *stages)


def _start_operator(plane: ControlPlane, api: KubeApi) -> None:
    """With the rights that its makers give it, and no others."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}})
    here = api.within(OPERATOR_NAMESPACE)
    for name in ("service_account", "role", "role_binding"):
        for document in yaml.safe_load_all((BUILT / "kuberay" / f"{name}.yaml").read_text(encoding="utf-8")):
            for subject in document.get("subjects", ()):
                subject["namespace"] = OPERATOR_NAMESPACE
            here.apply(document)
    for file in sorted((TOOLS / "crds").glob("*.yaml")):
        api.apply(yaml.safe_load(file.read_text(encoding="utf-8")))
    until(lambda: api.all_of("ray.io/v1", "RayCluster") == [], STARTS_S, trouble=(Refused, ValueError))
    plane.start(
        "ray-operator",
        *("--metrics-addr=0", "--health-probe-bind-address=0", "--enable-leader-election=false", "--log-stdout-encoder=console"),
        KUBECONFIG=str(plane.kubeconfig("operator")),
    )
