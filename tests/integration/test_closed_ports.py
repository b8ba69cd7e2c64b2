"""Everything that listens while all is up, asked without Ray's token: it runs no code, tells nothing and changes nothing."""

from __future__ import annotations

import http.client
import importlib
import os
import pickle
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import ray.core.generated
from google.protobuf.descriptor import FileDescriptor
from ray.serve.generated.serve_pb2 import ASGIRequest

from headrace.client import ControlClient
from headrace.local.home_key import home_key
from headrace.local.ports import free_port
from headrace.local.ray.token import read_token
from tests.integration.test_up_and_down import Machine, family
from tests.support.live import Service
from tests.support.models import mlp_artifact

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]
MODEL = "digits"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
PLAN: dict[str, Any] = {"steps": [{"weight": 10, "bake_s": 86_400}, {"weight": 100}], "deadline_s": 86_400}
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
SERVES_METHOD = "/ray.serve.ASGIService/HandleRequest"
# Ray brings no Python for this service, by which nodes give each other objects.
OBJECTS = ("/ray.rpc.ObjectManagerService/Pull", "/ray.rpc.ObjectManagerService/FreeObjects")
ASKED = ("/api/jobs/", "/api/job_agent/jobs/", "/api/v0/nodes", "/logical/actors", "/get_or_create_runtime_env")
# Figures of Ray itself (Prometheus), for whoever asks on this machine: no rows, no models, no code.
FIGURES = b"ray_"


class Writes:
    """Whoever unpickles it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def listening(machine: Machine) -> Iterator[tuple[psutil.Process, str, int]]:
    """Each socket that takes connections, of every process of the run."""
    for process in family(machine):
        try:
            for connection in process.net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    yield process, connection.laddr.ip, connection.laddr.port
        except psutil.NoSuchProcess:
            continue


def rays_methods() -> list[str]:
    """Every method of every gRPC service that Ray brings."""
    found = []
    for module in pkgutil.iter_modules(ray.core.generated.__path__):
        if not module.name.endswith("_pb2"):
            continue
        described: FileDescriptor = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR
        for service in described.services_by_name.values():
            found += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return found


def refusal(channel: grpc.Channel, method: str, message: bytes = b"", token: str | None = None) -> grpc.StatusCode:
    """What a call is told; OK where it was answered."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        channel.unary_unary(method)(message, timeout=10, metadata=metadata)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def http_answer(port: int, method: str, path: str) -> tuple[int, bytes] | None:
    """None from what does not speak HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (http.client.HTTPException, OSError):
        return None
    finally:
        connection.close()


def test_without_rays_token_nobody_gets_anything_below_the_door(machine: Machine, tmp_path: Path) -> None:
    machine.answer("up", *machine.ports, "--broker", "--broker-port", str(free_port()))
    state = machine.state()
    assert state.addresses.http is not None
    with ControlClient(state.addresses.http, timeout_s=60.0, token=home_key(machine.home)) as control:
        service = Service(MODEL, state.addresses.http, control)
        service.apply(SERVING, PLAN)
        service.register(mlp_artifact(tmp_path, MODEL))
        assert service.ended(1).state == "promoted"
        service.register(mlp_artifact(tmp_path, MODEL, nudge=0.1))
        service.seen(lambda rollout: rollout.state == "canary")
    token = read_token(machine.home.ray_token)
    doors = {int(machine.ports[1]), int(machine.ports[3])}
    replicas, methods, gives_objects = [], [*rays_methods(), *OBJECTS, SERVES_METHOD], []
    assert len(methods) > 100
    for process, ip, port in listening(machine):
        title = " ".join(process.cmdline())
        is_replica = title.startswith("ray::ServeReplica:")
        assert ip in LOOPBACK or (is_replica and ip == "::"), f"{title} listens on {ip}"
        if port in doors or "kafka" in title:
            continue
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answered = [method for method in methods if refusal(channel, method) not in REFUSED]
            assert answered == [], f"{title} at {port}"
            gives_objects += [port] if refusal(channel, OBJECTS[0]) is grpc.StatusCode.UNAUTHENTICATED else []
            if refusal(channel, SERVES_METHOD) is grpc.StatusCode.UNAUTHENTICATED and is_replica:
                replicas.append((port, title))
        for method in ("GET", "POST"):
            for path in ASKED:
                answer = http_answer(port, method, path)
                closed = answer is None or answer[0] in (401, 404, 405)
                assert closed or (method == "GET" and FIGURES in answer[1]), f"{title} at {port}: {method} {path}: {answer[0]}"

    assert gives_objects, "no port of the object manager was found"
    assert len(replicas) >= 3  # the gateway's, and one of each version
    for port, title in replicas:
        written = tmp_path / f"written-{port}"
        message = ASGIRequest(pickled_request_metadata=pickle.dumps(Writes(written))).SerializeToString()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for wrong in (None, "0" * 64, token[:-1], token.upper()):
                assert refusal(channel, SERVES_METHOD, message, wrong) is grpc.StatusCode.UNAUTHENTICATED, title
            assert not written.exists()
            refusal(channel, SERVES_METHOD, message, token)
            assert written.exists()  # so what was refused would have run
