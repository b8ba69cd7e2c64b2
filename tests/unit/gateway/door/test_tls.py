"""A real door that speaks TLS: to whom, with which certificate, and what it tells gateways of callers."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deployments.gateway.door.configuration import LOCAL, PEER
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.opening import Door
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from cluster.errors import BadInput
from tests.support.certificates import Pki
from tests.support.door import LiveDoor, live_door

pytestmark = [pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"), pytest.mark.timeout(120)]
INFER, MODEL_INFER = "/v2/models/m/infer", "/inference.GRPCInferenceService/ModelInfer"
LIMIT_S = 30.0
Client = tuple[Path, Path] | None


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("others"))


def tls_of(pki: Pki, *, client_ca: bool = True, client_certificates: ClientCertificates = ClientCertificates.OPTIONAL) -> DoorTls:
    certificate, key = pki.issue("door")
    return DoorTls(str(certificate), str(key), str(pki.ca) if client_ca else None, client_certificates)


@pytest.fixture(scope="module")
def door(pki: Pki) -> Iterator[LiveDoor]:
    """Callers may have a certificate."""
    with live_door(tls=tls_of(pki)) as opened:
        opened.start()
        yield opened


@pytest.fixture(scope="module")
def strict(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDoor]:
    """Callers must have one."""
    with live_door(tls=tls_of(pki, client_certificates=ClientCertificates.REQUIRED)) as opened:
        opened.start()
        yield opened


def ask(door: LiveDoor, context: ssl.SSLContext, *, http2: bool = False, **how: Any) -> dict[str, Any]:
    with httpx.Client(verify=context, trust_env=False, timeout=LIMIT_S, http2=http2) as client:
        answer = client.post(door.http + INFER, **how)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


def call(door: LiveDoor, credentials: grpc.ChannelCredentials, **how: Any) -> dict[str, Any]:
    with grpc.secure_channel(door.grpc, credentials, options=[("grpc.enable_retries", 0)]) as channel:
        told: dict[str, Any] = json.loads(channel.unary_unary(MODEL_INFER)(b"abc", timeout=LIMIT_S, **how))
        return told


def connected(door: LiveDoor, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection((door.settings.host, door.settings.http_port), timeout=LIMIT_S)
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def exchange(caller: ssl.SSLSocket) -> dict[str, Any]:
    caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
    answer = b""
    while piece := caller.recv(1 << 16):
        answer += piece
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return told


def der_of(certificate: Path) -> bytes:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(Encoding.DER)


def test_http_over_tls(door: LiveDoor, pki: Pki) -> None:
    headers = ask(door, pki.context(), headers={PEER: "me", "x-forwarded-for": "9.9.9.9"})["headers"]
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert PEER not in headers
    told = call(door, pki.grpc(), metadata=[(PEER, "me")])
    assert (told["way"], told["bytes"]) == ("infer", 8)
    assert PEER not in told["headers"]


def test_curl_by_either_version_of_http(door: LiveDoor, pki: Pki) -> None:
    for version in ("--http1.1", "--http2"):
        written = "%{http_version} %{http_code}"
        command = ["curl", "-sS", version, "--cacert", str(pki.ca), "-o", "/dev/null", "-w", written, door.http + INFER, "-d", "{}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.stdout == f"{version.removeprefix('--http').replace('2', '2')} 200", done.stderr
