"""What Serve is told of a version, and what is read from Serve's answer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ray.serve.schema import ApplicationStatus

from cluster.error_wire import KINDS
from cluster.errors import BadInput
from cluster.fleet.serving import Resources, Scaling, ScalingMode, Serving
from cluster.ports import AppState, AppStatus
from cluster.rollout.blame import TRANSIENT
from cluster.signature import Signature
from cluster.versions import Version, VersionId
from deployments.gateway.deployment import APP
from deployments.serving.fleet import deployment_options, gateway_opens, run_target
from deployments.serving.replica import Replica
from deployments.serving.serve_controller import SeenApp, SeenDeployment, SeenReplica
from deployments.serving.serve_state import app_state, is_transient, reason


def test_resources_become_actor_options() -> None:
    asked = Resources(cpus=2, gpus=0.5, accelerator_type="H200", node_labels={"pool": "gpu"})
    assert deployment_options(Serving(resources=asked), 1)["ray_actor_options"] == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "accelerator_type": "H200",
        "label_selector": {"pool": "gpu"},
    }
    assert deployment_options(Serving(), 1)["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert deployment_options(Serving(memory_bytes=2_000_000_000), 1)["ray_actor_options"]["memory"] == 2_000_000_000


@pytest.mark.parametrize("resources", [Resources(cpus=0.00001), Resources(node_labels={"pool of": "gpus"})], ids=str)
def test_what_ray_does_not_take_is_told_as_the_documents_fault(resources: Resources) -> None:
    signature = Signature(inputs=(), outputs=())
    version = Version(VersionId("digits", 2), "file:///a", "d", "onnx", signature, 0.0)
    with pytest.raises(BadInput, match=r"digits version 2: Ray does not take its `serving` section"):
        run_target(version, Serving(resources=resources), 1, Replica)


@pytest.mark.parametrize(("known", "initial"), [(0, 2), (3, 3), (9, 5)])
def test_automatic_scaling_stays_between_its_bounds(known: int, initial: int) -> None:
    options = deployment_options(Serving(scaling=Scaling(min=2, max=5, target_ongoing=3)), known)
    config = options["autoscaling_config"]
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (2, initial, 5)
    assert config.target_ongoing_requests == 3
    assert "num_replicas" not in options


def test_manual_scaling_begins_with_the_known_number() -> None:
    options = deployment_options(Serving(scaling=Scaling(mode=ScalingMode.MANUAL)), 3)
    assert options["num_replicas"] == 3
    assert "autoscaling_config" not in options


def test_a_stopping_replica_may_finish_the_longest_call() -> None:
    assert deployment_options(Serving(timeout_s=60), 1)["graceful_shutdown_timeout_s"] > 60


@pytest.mark.parametrize("kind", KINDS)
def test_the_reason_is_the_last_error_of_the_traceback(kind: str) -> None:
    message = f"""The deployment failed to start 2 times in a row. See controller logs for details. Error:
Traceback (most recent call last):
  File "x.py", line 3, in load
OSError: gone

The above exception was the direct cause of the following exception:

ray::ServeReplica:digits--v1:replicas.initialize_and_get_metadata() (pid=1)
RuntimeError: Traceback (most recent call last):
  File "y.py", line 5, in verify
cluster.errors.{kind}: /a/model.onnx: model.onnx is damaged: its digest differs (build the version again)
"""
    assert reason(message) == "/a/model.onnx: model.onnx is damaged: its digest differs (build the version again)"
    assert reason("no traceback here ") == "no traceback here"


@pytest.mark.parametrize(("kind", "transient"), [(name, issubclass(kind, TRANSIENT)) for name, kind in KINDS.items()])
def test_what_says_nothing_of_the_version_is_told_apart(kind: str, *, transient: bool) -> None:
    told = f"OSError: gone\n\ncluster.errors.{kind}: s3://a: it is away (wait)"
    details = SeenDeployment(status="UNHEALTHY", message=told, target_num_replicas=1)
    seen = app_state("digits--v2", SeenApp(status=ApplicationStatus.UNHEALTHY, deployments={"model": details}), "model")
    assert seen == AppState("digits--v2", AppStatus.UNHEALTHY, 0, 1, "s3://a: it is away (wait)", transient)
    assert not is_transient(f"somebody.{kind}: it is no error of ours")


def seen_gateway(status: str, *replicas: str) -> dict[str, SeenApp]:
    deployment = SeenDeployment(status="UPDATING", replicas=[SeenReplica(state=state) for state in replicas])
    return {APP: SeenApp(status=ApplicationStatus(status), last_deployed_time_s=100.0, deployments={"Gateway": deployment})}


def test_the_first_gateway_comes_before_any_version() -> None:
    assert gateway_opens(seen_gateway("DEPLOYING"), 110.0)
    assert gateway_opens(seen_gateway("DEPLOYING", "STARTING"), 110.0)
    assert not gateway_opens(seen_gateway("DEPLOYING", "STARTING", "RUNNING"), 110.0)


def test_versions_do_not_wait_for_a_gateway_that_does_not_come() -> None:
    assert not gateway_opens({}, 110.0)
    assert not gateway_opens(seen_gateway("DEPLOY_FAILED"), 110.0)
    assert not gateway_opens(seen_gateway("DEPLOYING", "STARTING"), 121.0)


def test_the_chooser_is_found_by_a_process_that_does_not_know_its_name() -> None:
    sent = deployment_options(Serving(), 1)["request_router_config"]._serialized_request_router_cls
    asks = (
        "import sys; from ray import cloudpickle; sys.modules['deployments'] = None; "
        "print(cloudpickle.loads(sys.stdin.buffer.read()).__name__)"
    )
    told = subprocess.run([sys.executable, "-c", asks], input=sent, capture_output=True, check=True)
    assert told.stdout.decode().strip() == "LeastBusyRouter"
