"""A Kubernetes API server's REST API, as its own clients use it: what is refused is raised in the server's words."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

Document = dict[str, Any]


class Refused(Exception):
    """The server's answer where it would not: its HTTP status, and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class KubeApi:
    """One user's connection, in one namespace."""

    client: httpx.Client
    namespace: str
    _resources: dict[str, list[Document]] = field(default_factory=dict, repr=False)

    def within(self, namespace: str) -> KubeApi:
        """The same in another namespace."""
        return KubeApi(self.client, namespace, self._resources)

    def apply(self, document: Document, *, dry_run: bool = False) -> Document:
        """Server-side apply, as `kubectl apply --server-side` does it; a field that the server does not know is refused.

        With `dry_run` all is done but the storing. Raises Refused.
        """
        asked = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        path = f"{self._collection(document['apiVersion'], document['kind'])}/{document['metadata']['name']}"
        body = json.dumps(document)
        return self._ask("PATCH", path, content=body, headers={"Content-Type": "application/apply-patch+yaml"}, params=asked)

    def set_status(self, document: Document) -> None:
        """What a kubelet says of its node. Raises Refused."""
        path = f"{self._collection(document['apiVersion'], document['kind'])}/{document['metadata']['name']}/status"
        patch = json.dumps({"status": document["status"]})
        self._ask("PATCH", path, content=patch, headers={"Content-Type": "application/merge-patch+json"})

    def named(self, version: str, kind: str, name: str, part: str = "") -> Document:
        """One of a kind, or a `part` of it like `/status`. Raises Refused."""
        return self._ask("GET", f"{self._collection(version, kind)}/{name}{part}")

    def all_of(self, version: str, kind: str, selector: str = "") -> list[Document]:
        """All of a kind in the namespace that a label selector takes. Raises Refused."""
        found: list[Document] = self._ask("GET", self._collection(version, kind), params={"labelSelector": selector})["items"]
        return found

    def pods(self, selector: str = "") -> list[Document]:
        """All Pods that a label selector takes, which nobody has told to end."""
        return [pod for pod in self.all_of("v1", "Pod", selector) if "deletionTimestamp" not in pod["metadata"]]

    def replace_at(self, version: str, kind: str, name: str, pointer: str, value: Any) -> None:
        """One value of a document, by a JSON patch as Ray's autoscaler makes them. Raises Refused."""
        patch = json.dumps([{"op": "replace", "path": pointer, "value": value}])
        kind_of = {"Content-Type": "application/json-patch+json"}
        self._ask("PATCH", f"{self._collection(version, kind)}/{name}", content=patch, headers=kind_of)

    def token_of(self, account: str) -> str:
        """A token by which what runs as that ServiceAccount asks, as a kubelet fetches it for a Pod. Raises Refused."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = f"{self._collection('v1', 'ServiceAccount')}/{account}/token"
        return str(self._ask("POST", path, json=request)["status"]["token"])

    def evict(self, pod: Document) -> None:
        """As a drain does it. Raises Refused, with 429 where a budget for disruptions says no."""
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.namespace}}
        self._ask("POST", f"{self._collection('v1', 'Pod')}/{name}/eviction", json=eviction)

    def delete(self, version: str, kind: str, name: str) -> None:
        """Tells it to end. Raises Refused."""
        self._ask("DELETE", f"{self._collection(version, kind)}/{name}")

    def _collection(self, version: str, kind: str) -> str:
        base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        if not any(one["kind"] == kind for one in self._resources.get(base, ())):  # a kind may have come since
            self._resources[base] = [one for one in self._ask("GET", base)["resources"] if "/" not in one["name"]]
        (found,) = (one for one in self._resources[base] if one["kind"] == kind)
        return f"{base}/namespaces/{self.namespace}/{found['name']}" if found["namespaced"] else f"{base}/{found['name']}"

    def _ask(self, method: str, path: str, **how: Any) -> Document:
        answer = self.client.request(method, path, **how)
        said: Document = answer.json()
        if not answer.is_success:
            raise Refused(answer.status_code, str(said.get("message", said)))
        return said


@contextmanager
def connected(url: str, ca: Path, token: str, namespace: str) -> Iterator[KubeApi]:
    """A connection of who has `token`, in `namespace`."""
    context = ssl.create_default_context(cafile=str(ca))
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, verify=context, headers=headers, timeout=60, trust_env=False) as client:
        yield KubeApi(client, namespace)
