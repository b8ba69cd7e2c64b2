"""The chart for Kubernetes: what helm makes of it, against the schemas of Kubernetes and of KubeRay; and what it refuses.

By `make chart`, which brings helm (built by Go) and the schemas. No cluster runs here: what an API server and the operator make
of it is in tests/kubernetes.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.helm import CHART, FOREIGN, HELM, MANIFESTS, TOOLS, VALUES, helm, rendered, words_of

VERSIONS = ("1.29.0", "1.34.0")

pytestmark = [pytest.mark.chart, pytest.mark.skipif(not HELM.exists(), reason="`make chart` brings helm and the schemas")]


@pytest.mark.parametrize("example", ["small", "full"])
@pytest.mark.parametrize("version", VERSIONS)
def test_helm_finds_nothing_to_say_about_it(example: str, version: str) -> None:
    done = helm("lint", "--strict", *words_of(example=example, version=version))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", ["small", "full"])
@pytest.mark.parametrize("sets", VALUES, ids=lambda sets: ",".join(sets)[:50])
def test_whatever_is_set_the_schemas_know_every_field(example: str, sets: tuple[str, ...], tmp_path: Path) -> None:
    documents = rendered(*sets, example=example)
    for document in documents:
        if document["kind"] == "RayCluster":
            jsonschema.Draft202012Validator(ray_cluster_schema()).validate(document)
    others = [one for one in documents if one["kind"] != "RayCluster" and one["apiVersion"] not in FOREIGN]
    expect_valid(others, tmp_path / "all.yaml")


def expect_valid(documents: list[dict[str, Any]], file: Path) -> None:
    """Kubernetes' own schemas, in which a field that they do not know is an error."""
    file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    program = str(TOOLS / "bin" / "kubernetes-validate")
    done = subprocess.run(
        [program, "--strict", "-k", "1.34", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def ray_cluster_schema() -> dict[str, Any]:
    """KubeRay's own, in which a field that it does not know is an error, as it is for a strict API server."""
    definition = yaml.safe_load((TOOLS / "crds" / "ray.io_rayclusters.yaml").read_text(encoding="utf-8"))
    version = next(one for one in definition["spec"]["versions"] if one["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    for part in _objects(schema):
        open_ended = "additionalProperties" in part or part.get("x-kubernetes-preserve-unknown-fields")
        if "properties" in part and not open_ended:
            part["additionalProperties"] = False
        if part.get("x-kubernetes-int-or-string"):
            part.pop("type", None)
    return schema


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "type" in node or "properties" in node or "x-kubernetes-int-or-string" in node:
            yield node
        for value in list(node.values()):
            yield from _objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value)


@pytest.mark.parametrize("example", ["small", "full"])
def test_the_operator_takes_it_and_makes_pods_that_kubernetes_takes(example: str, tmp_path: Path) -> None:
    """By KubeRay's own functions, which its operator calls: its validation, and the Pods that it would make."""
    cluster = next(one for one in rendered(example=example) if one["kind"] == "RayCluster")
    program = str(TOOLS / "bin" / "kuberay-pods")
    made = subprocess.run([program], input=yaml.safe_dump(cluster), capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    pods = [pod for pod in yaml.safe_load_all(made.stdout) if pod]
    assert len(pods) == 1 + len(cluster["spec"]["workerGroupSpecs"])
    for number, pod in enumerate(pods):
        pod["metadata"] |= {"name": f"pod-{number}"}  # which the API server makes of generateName
        pod["metadata"].pop("creationTimestamp", None)
    expect_valid(pods, tmp_path / "pods.yaml")
    head, gateway = pods[0], pods[1]
    assert "ray start --head" in " ".join(head["spec"]["containers"][0]["args"])
    assert "headrace_gateway" in " ".join(gateway["spec"]["containers"][0]["args"])
    assert gateway["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert gateway["metadata"]["labels"]["ray.io/group"] == "gateway"
    sidecar = head["spec"]["initContainers"][0]
    for path in ("/tmp/ray", "/dev/shm"):  # noqa: S108 (where Ray has them)
        found = {
            mount["name"]
            for one in (sidecar, head["spec"]["containers"][0])
            for mount in one["volumeMounts"]
            if mount["mountPath"] == path
        }
        assert len(found) == 1
    names = [volume["name"] for volume in head["spec"]["volumes"]]
    assert len(names) == len(set(names))


def test_a_field_that_kuberay_does_not_know_would_be_found() -> None:
    cluster = next(one for one in rendered() if one["kind"] == "RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycel"] = {}
    with pytest.raises(jsonschema.ValidationError, match="lifecycel"):
        jsonschema.Draft202012Validator(ray_cluster_schema()).validate(cluster)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (('image.repository=""',), "image.repository: no image is named"),
        (('store.existingSecret.name=""',), "store: nothing says"),
        (('store={"url":"sqlite:///x.db","existingSecret":{"name":"","key":"url"}}',), "only a PostgreSQL outlives"),
        (('store={"url":"postgresql://x","existingSecret":{"name":"s","key":"url"}}',), "not both"),
        (('redis.address=""',), "redis.address"),
        (('gateway.tls.secretName=""',), "cross the network in clear"),
        (('gateway.access=""',), "nothing says who may do what"),
        (("gateway.grpcPort=8000",), "it is httpPort too"),
        (("gateway.minReplicas=0",), "gateway.minReplicas"),
        (('gateway.service.type="NodePort"',), "loadBalancerSourceRanges: a NodePort Service keeps nobody out"),
        (("gateway.minReplicas=1", "gateway.minAvailable=1"), "no node could ever be drained"),
        (("workers.cpu.minReplicas=1", "workers.cpu.minAvailable=1"), "workers.cpu.minAvailable"),
        (("workers.cpu.minReplicas=9",), "is more than maxReplicas 8"),
        (("workers.cpu.enabled=false", "workers.gpu.enabled=false"), "no group is enabled"),
        (("networkPolicy.apiServer=[]",), "networkPolicy.apiServer"),
        (("networkPolicy.egress=[]",), "networkPolicy.egress"),
        (("gateway.minReplcas=2",), "minReplcas"),
        (('rayVersion="2.40.0"',), "rayVersion"),
        (('kafka.bootstrapServers="kafka"',), "bootstrapServers"),
        (('workers.GPU={"enabled":true}',), "GPU"),
        (('image.digest="abc"',), "digest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_can_not_work_are_refused_in_words_before_anything_is_made(sets: tuple[str, ...], words: str) -> None:
    done = helm("template", "headrace", *words_of(*sets))
    assert done.returncode != 0
    assert words in done.stderr
    assert done.stdout == ""


def test_prometheus_reaches_the_gateways_behind_a_closed_network() -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    documents = rendered(f"networkPolicy.operators={json.dumps([prometheus])}")
    (policy,) = (one for one in documents if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "headrace-callers")
    let_in = [rule for rule in policy["spec"]["ingress"] if prometheus in rule["from"]]
    assert [[port["port"] for port in rule["ports"]] for rule in let_in] == [["http"]]
    callers = [rule for rule in policy["spec"]["ingress"] if prometheus not in rule["from"]]
    assert [port["port"] for rule in callers for port in rule["ports"]] == ["http", "grpc"]


def test_an_older_kubernetes_is_refused() -> None:
    done = helm("template", "headrace", *words_of(version="1.28.0"))
    assert done.returncode != 0
    assert "1.29" in done.stderr


def test_the_manifests_for_those_without_helm_are_what_it_makes() -> None:
    there = [document for document in yaml.safe_load_all(MANIFESTS.read_text(encoding="utf-8")) if document]
    assert json.dumps(there, sort_keys=True) == json.dumps(rendered(), sort_keys=True), "run `make manifests`"


def test_the_notes_teach_what_to_do_next(tmp_path: Path) -> None:
    """Helm shows them to who installs, which takes a cluster: here they are rendered as a document."""
    copy = shutil.copytree(CHART, tmp_path / "headrace")
    (copy / "templates" / "NOTES.txt").rename(copy / "NOTES.txt")
    (copy / "templates" / "told.yaml").write_text('notes: |\n{{ tpl (.Files.Get "NOTES.txt") . | indent 2 }}\n', encoding="utf-8")
    done = helm("template", "headrace", str(copy), *words_of()[1:], "--show-only", "templates/told.yaml")
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["notes"]
    assert "headrace doctor" in told
    assert "port-forward svc/headrace-gateway" in told
    assert "{{" not in told
    assert "WARNING" not in told
