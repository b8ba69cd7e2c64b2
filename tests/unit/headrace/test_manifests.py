"""The manifests for Kubernetes, as rendered: what they start is what our commands take, and what they promise holds together."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from headrace.cli.main import command_line
from headrace.local.ray.head import RAY_ENVIRONMENT, SERVE_ENVIRONMENT
from headrace.project.documents import load_project

OPS = Path(__file__).parents[3] / "ops"
CHART = OPS / "helm" / "headrace"
DOCUMENTS: list[dict[str, Any]] = [
    one for one in yaml.safe_load_all((OPS / "kubernetes" / "headrace.yaml").read_text("utf-8")) if one
]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in DOCUMENTS if document["kind"] == kind]


CLUSTER = of_kind("RayCluster")[0]
GROUPS = CLUSTER["spec"]["workerGroupSpecs"]
HEAD = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]


def pods() -> Iterator[dict[str, Any]]:
    yield HEAD
    yield from (group["template"]["spec"] for group in GROUPS)


def containers() -> Iterator[dict[str, Any]]:
    for pod in pods():
        yield from (*pod["containers"], *pod.get("initContainers", ()))


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line makes of them; raises where it does not know one."""
    found = typer.main.get_command(command_line(words)).commands[words[0]]  # type: ignore[attr-defined]
    return dict(found.make_context(words[0], words[1:]).params)


def test_the_sidecar_and_the_hooks_say_what_our_commands_take() -> None:
    sidecar = HEAD["initContainers"][0]
    assert sidecar["command"] == ["headrace"]
    asked = parsed(sidecar["args"])
    assert asked["join"] is True
    assert asked["gateways_on"] in GROUPS[0]["resources"]
    for group in GROUPS:
        hook = group["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert hook[0] == "headrace"
        within_s = parsed(hook[1:])["within_s"]
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= within_s + 30


def test_every_container_has_the_environment_that_all_processes_of_serve_must_share() -> None:
    told = [{one["name"]: one.get("value") for one in container["env"]} for container in containers()]
    assert len(told) == 2 + len(GROUPS)
    own = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # of a Ray that never has a second node
    for environment in told:
        assert SERVE_ENVIRONMENT.items() <= environment.items()
        assert {name: value for name, value in RAY_ENVIRONMENT.items() if name != own}.items() <= environment.items()


def test_nothing_runs_as_root_or_writes_its_image() -> None:
    assert all(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001 for pod in pods())
    for container in containers():
        security = container["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_autoscaler_alone_holds_a_token_of_the_api_server() -> None:
    assert all(pod["automountServiceAccountToken"] is False for pod in pods())
    assert of_kind("ServiceAccount")[0]["automountServiceAccountToken"] is False
    (volume,) = (one["name"] for one in HEAD["volumes"] if "projected" in one)
    ours = {mount["mountPath"]: mount["name"] for mount in CLUSTER["spec"]["autoscalerOptions"]["volumeMounts"]}
    assert ours["/var/run/secrets/kubernetes.io/serviceaccount"] == volume  # where Ray's autoscaler reads it
    assert all(mount["name"] != volume for container in containers() for mount in container["volumeMounts"])


def test_the_sidecar_sees_the_sockets_and_the_memory_of_its_ray() -> None:
    sidecar, ray = HEAD["initContainers"][0], HEAD["containers"][0]
    for path in ("/tmp/ray", "/dev/shm"):  # noqa: S108 (where Ray has them in its image)
        names = {mount["name"] for one in (sidecar, ray) for mount in one["volumeMounts"] if mount["mountPath"] == path}
        assert len(names) == 1
    assert sidecar["restartPolicy"] == "Always"
    assert HEAD["shareProcessNamespace"] is True


def test_every_budget_leaves_a_pod_that_may_go() -> None:
    bounds = {group["groupName"]: group["minReplicas"] for group in GROUPS}
    budgets = of_kind("PodDisruptionBudget")
    for budget in budgets:
        group = budget["spec"]["selector"]["matchLabels"]["ray.io/group"]
        assert 1 <= budget["spec"]["minAvailable"] < bounds[group]
    assert {budget["spec"]["selector"]["matchLabels"]["ray.io/group"] for budget in budgets} == {
        group for group, least in bounds.items() if least > 1
    }


def test_callers_come_in_at_gateways_alone() -> None:
    service = of_kind("Service")[0]
    assert service["spec"]["selector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"], "ray.io/group": "gateway"}
    named = {port["name"] for port in GROUPS[0]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == named


def test_its_access_document_is_one(tmp_path: Path) -> None:
    (tmp_path / "access.yaml").write_text(of_kind("ConfigMap")[0]["data"]["access.yaml"], encoding="utf-8")
    assert load_project([tmp_path / "access.yaml"]).access is not None


def test_the_schema_takes_the_values_and_the_examples_and_no_unknown_field() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    check = jsonschema.Draft7Validator(schema).validate
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    check(values)
    for wrong in ({"gatewy": {}}, {"rayVersion": "2.9.0"}, {"image": {"digest": "sha256:1"}}, {"logs": {"form": "xml"}}):
        with pytest.raises(jsonschema.ValidationError):
            check({**copy.deepcopy(values), **wrong})


def test_the_ray_of_the_values_is_the_one_that_is_installed() -> None:
    import ray

    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert values["rayVersion"] == CLUSTER["spec"]["rayVersion"] == ray.__version__
