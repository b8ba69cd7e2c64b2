"""A whole service for the benches of the online way: Ray, Serve, controller, gateway, and an echo behind a door like its."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from bench.batch_data import Case, write_model
from bench.echo import echoing
from bench.http_load import request
from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.rollouts import RolloutView
from cluster.commands.versions import RegisterVersion
from cluster.errors import HeadraceError
from headrace.client import ControlClient
from headrace.local.home import read_settings
from headrace.local.home_key import home_key
from headrace.local.ports import free_port
from headrace.local.ray.head import SERVE_ENVIRONMENT

# Read by Ray when it is imported and by its processes.
ENVIRONMENT = {
    # As with `headrace up`.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    **SERVE_ENVIRONMENT,
}
T = TypeVar("T")
WIDTH, CLASSES = 784, 10
PATIENCE_S = 240.0


@dataclass(frozen=True, slots=True)
class Service:
    """Where it answers, and how to steer it."""

    port: int
    grpc_port: int
    echo_port: int
    control: ControlClient
    folder: Path

    def register(self, model: str, hidden: int, *, profiled: int = 0) -> int:
        """Registers a network 784-`hidden`-10 as the model's next version, with a profile of so many rows; 0: without."""
        case = Case("online", files=0, rows_a_file=0, width=WIDTH, layers=(hidden, CLASSES))
        pinned = write_model(case, self.folder / f"{model}-{hidden}", profiled=profiled)
        request = RegisterVersion(
            model=model, artifact_uri=pinned.artifact_uri, digest=pinned.digest, engine="onnx", signature=pinned.signature
        )
        return self.control.register_version(request).version

    def apply(self, model: str, serving: dict[str, Any], plan: dict[str, Any]) -> None:
        """Applies the model's document."""
        self.control.apply(Apply(models=(ModelDocument.model_validate({"name": model, "serving": serving, "rollout": plan}),)))

    def rollout_at(self, model: str, candidate: int, state: str) -> RolloutView:
        """Returns once the rollout of the candidate is in that state."""
        return self.rollout_when(model, lambda rollout: (rollout.candidate, rollout.state) == (candidate, state))

    def rollout_when(self, model: str, wanted: Callable[[RolloutView], bool]) -> RolloutView:
        """Returns once the model's last rollout is as wanted."""

        def look() -> RolloutView | None:
            rollout = self.control.rollout(model)
            return rollout if rollout is not None and wanted(rollout) else None

        return awaited(look)


def json_body() -> bytes:
    """One row as the protocol's JSON, 784 numbers of about ten characters."""
    row = np.random.default_rng(0).random((1, WIDTH), np.float32)
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": row.ravel()}
    return orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)


def binary_body() -> tuple[bytes, dict[str, str]]:
    """One row as binary, answered as binary; and the headers that go with it."""
    row = np.random.default_rng(0).random((1, WIDTH), np.float32)
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "parameters": {"binary_data_size": row.nbytes}}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return header + row.tobytes(), {"inference-header-content-length": str(len(header))}


def http_message(model: str) -> bytes:
    """`binary_body` for the model, as it goes over the wire."""
    return request(f"/v2/models/{model}/infer", *binary_body())


def grpc_message(model: str) -> bytes:
    """One row as a gRPC request with raw contents."""
    from deployments.gateway.protocol.proto import inference_pb2 as pb

    row = np.random.default_rng(0).random((1, WIDTH), np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, WIDTH])
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[row.tobytes()]).SerializeToString()


def awaited(look: Callable[[], T | None]) -> T:
    """The first thing that `look` finds; trouble on the way is waited out."""
    end = time.monotonic() + PATIENCE_S
    trouble: HeadraceError | None = None
    while time.monotonic() < end:
        try:
            if (found := look()) is not None:
                return found
        except HeadraceError as error:
            trouble = error
        time.sleep(0.05)
    raise TimeoutError(f"not seen within {PATIENCE_S:g} s; last trouble: {trouble}")


@contextmanager
def one_node(folder: Path) -> Iterator[None]:
    """Ray on this machine alone, with its files in the folder."""
    import ray

    try:
        ray.init(
            address="local",
            namespace="headrace",
            num_cpus=8,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder / "r"),
            object_store_memory=512 * 1024 * 1024,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield
    finally:
        ray.shutdown()


@contextmanager
def running(connected: Callable[[Path], AbstractContextManager[None]] = one_node, fleet: str = "") -> Iterator[Service]:
    """Everything on free ports in a folder of its own, on the Ray that `connected` starts; ended at the end. `fleet` names
    another than the product's, as `module:class`."""
    os.environ.update(ENVIRONMENT)
    import ray
    from ray import serve
    from ray._raylet import Config

    Config.initialize("")  # a bench that scores by itself has imported Ray, which read its variables then
    from deployments.gateway.deployment import GatewaySettings, start_gateway
    from headrace.controller_actor import FLEET
    from headrace.controller_start import start_controller

    folder, port, grpc_port, echo_port = Path(tempfile.mkdtemp(prefix="ho-")), free_port(), free_port(), free_port()
    try:
        with connected(folder):
            try:
                serve.start(proxy_location="Disabled")
                settings = read_settings({"HEADRACE_HOME": str(folder / "home")})
                start_controller(settings, fleet=fleet or FLEET, timeout_s=PATIENCE_S)
                start_gateway(GatewaySettings(http_port=port, grpc_port=grpc_port))
                token = home_key(settings.home)
                with ControlClient(f"http://127.0.0.1:{port}", timeout_s=60.0, token=token) as control, echoing(echo_port):
                    awaited(control.status)
                    yield Service(port, grpc_port, echo_port, control, folder)
            finally:
                if ray.is_initialized():
                    serve.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
