"""Unchanged clients of a whole gateway over TLS, with certificates of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from tests.support.certificates import Pki
from tests.support.door import LiveDoor, door_settings
from tests.support.pair_gateway import KNOWN

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
    pytest.mark.timeout(120),
]
X = np.array([[1, 2], [3, 4]], np.float32)
LIMIT_S = 30.0


@dataclass(frozen=True)
class Secured:
    """A door behind which the model `pair` is served; whoever calls must have a certificate, such as `client`."""

    door: LiveDoor
    pki: Pki
    client: tuple[Path, Path]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    certificate, key = pki.issue("door")
    tls = DoorTls(str(certificate), str(key), str(pki.ca), ClientCertificates.REQUIRED)
    door = LiveDoor(door_settings(tls=tls), program="tests.support.pair_gateway")
    try:
        door.start()
        # Its own certificate has many names: over 5 KiB in a header.
        yield Secured(door, pki, pki.issue("client", KNOWN, *(f"{number:03}.{'a' * 40}.example" for number in range(75))))
    finally:
        door.close()


def tensor(module: Any) -> Any:
    made = module.InferInput("x", list(X.shape), "FP32")
    made.set_data_from_numpy(X)
    return made


def test_tritonclient_by_http(secured: Secured) -> None:
    context = secured.pki.context(secured.client)
    address = secured.door.http.removeprefix("https://")
    with triton_http.InferenceServerClient(address, ssl=True, ssl_context_factory=lambda: context) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("pair")["name"] == "pair"
        assert client.infer("pair", [tensor(triton_http)]).as_numpy("double").tolist() == (2 * X).tolist()


def test_tritonclient_by_grpc(secured: Secured) -> None:
    certificate, key = secured.client
    files = {"root_certificates": secured.pki.ca, "private_key": key, "certificate_chain": certificate}
    with triton_grpc.InferenceServerClient(
        secured.door.grpc, ssl=True, **{name: str(path) for name, path in files.items()}
    ) as client:
        assert client.is_server_ready()
        assert client.infer("pair", [tensor(triton_grpc)]).as_numpy("double").tolist() == (2 * X).tolist()


def test_kserves_own_clients(secured: Secured) -> None:
    kserve = Path(sys.prefix).with_name(f"{Path(sys.prefix).name}-kserve") / "bin" / "python"
    if not kserve.exists():
        pytest.skip("needs KServe's package in a venv of its own: `make kserve`")
    program = Path(__file__).parents[3] / "support" / "kserve_tls_calls.py"
    words = [kserve, program, secured.door.http, secured.door.grpc, "pair", secured.pki.ca, *secured.client]
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, check=True, timeout=100)
    assert json.loads(done.stdout) == {"rest": (2 * X).tolist(), "grpc": (2 * X).tolist()}


def test_who_has_a_certificate_has_the_rights_of_its_names_and_no_others(secured: Secured) -> None:
    certificate, key = secured.pki.issue("eve", "eve.example")
    context, address = secured.pki.context((certificate, key)), secured.door.http.removeprefix("https://")
    with (
        triton_http.InferenceServerClient(address, ssl=True, ssl_context_factory=lambda: context) as client,
        pytest.raises(InferenceServerException, match="403"),
    ):
        client.infer("pair", [tensor(triton_http)])
    files = {"root_certificates": secured.pki.ca, "private_key": key, "certificate_chain": certificate}
    with (
        triton_grpc.InferenceServerClient(
            secured.door.grpc, ssl=True, **{name: str(path) for name, path in files.items()}
        ) as client,
        pytest.raises(InferenceServerException, match="PERMISSION_DENIED"),
    ):
        client.infer("pair", [tensor(triton_grpc)])


def test_a_head_may_be_as_large_as_without_a_certificate(secured: Secured) -> None:
    head = {f"x-{number}": "b" * 1000 for number in range(15)}
    with httpx.Client(
        verify=secured.pki.context(secured.client), base_url=secured.door.http, headers=head, timeout=LIMIT_S
    ) as http:
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        assert http.post("/v2/models/pair/infer", json=body).json()["outputs"][0]["data"] == [2, 4]
        assert http.get("/v2/models/pair").json()["name"] == "pair"
        assert http.get("/v2/models/pair", headers={"x-more": "c" * 2000}).status_code == 431
    certificate, key = secured.client
    files = {"root_certificates": secured.pki.ca, "private_key": key, "certificate_chain": certificate}
    with triton_grpc.InferenceServerClient(
        secured.door.grpc, ssl=True, **{name: str(path) for name, path in files.items()}
    ) as client:
        for _ in range(10):  # gRPC's own limit is by chance
            assert client.get_model_metadata("pair", headers=head).name == "pair"


def test_the_front_page_says_how_to_call_it(secured: Secured) -> None:
    with httpx.Client(verify=secured.pki.context(secured.client), timeout=LIMIT_S) as http:
        assert f" {secured.door.http}/v2/models/pair/infer" in http.get(secured.door.http).json()["models"][0]["call"]
