"""A real door that speaks TLS: to whom, with which certificate, and what it tells gateways of callers."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.errors import BadInput
from deployments.gateway.door.configuration import CERTIFICATE, CLIENT_CA, LOCAL, PEER
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.opening import Door
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from tests.support.certificates import Pki
from tests.support.door import LiveDoor, live_door

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
    pytest.mark.timeout(120),
]
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


def ask(door: LiveDoor, context: ssl.SSLContext, **how: Any) -> dict[str, Any]:
    with httpx.Client(verify=context, trust_env=False, timeout=LIMIT_S) as client:
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


def refused(door: LiveDoor, context: ssl.SSLContext, why: str, pki: Pki, client: Client = None) -> None:
    """By HTTP and by gRPC. With TLS 1.3 a caller learns of it with his first answer."""
    with pytest.raises((ssl.SSLError, ConnectionError), match=why), connected(door, context) as caller:
        exchange(caller)
    with pytest.raises(grpc.RpcError) as error:
        call(door, pki.grpc(client))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_http_and_grpc_over_tls(door: LiveDoor, pki: Pki) -> None:
    headers = ask(door, pki.context(), headers={PEER: "me", "x-forwarded-for": "9.9.9.9"})["headers"]
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert PEER not in headers
    told = call(door, pki.grpc(), metadata=[(PEER, "me")])
    assert (told["way"], told["bytes"]) == ("infer", 8)
    assert PEER not in told["headers"]


@pytest.mark.parametrize(("offered", "agreed"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)])
def test_the_version_of_http_is_agreed_upon(door: LiveDoor, pki: Pki, offered: list[str], agreed: str | None) -> None:
    context = pki.context()
    context.set_alpn_protocols(offered)
    with connected(door, context) as caller:
        assert caller.selected_alpn_protocol() == agreed


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize(("asked", "spoken"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_curl_by_either_version_of_http(door: LiveDoor, pki: Pki, asked: str, spoken: str) -> None:
    written = ["-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    command = ["curl", "-sS", asked, "--cacert", str(pki.ca), *written, door.http + INFER, "-d", "{}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.stdout == f"{spoken} 200", done.stderr


@pytest.mark.parametrize(
    ("version", "good"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)]
)
def test_tls_is_1_2_at_least(door: LiveDoor, pki: Pki, version: ssl.TLSVersion, good: bool) -> None:
    context = pki.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    if good:
        with connected(door, context) as caller:
            assert caller.version() == version.name.replace("_", ".")
    else:
        with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"):
            connected(door, context)


def test_in_clear_nothing_is_said(door: LiveDoor) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(door.http.replace("https", "http"), trust_env=False, timeout=LIMIT_S)


def test_who_shows_a_certificate_is_told_to_the_gateway(door: LiveDoor, strict: LiveDoor, pki: Pki) -> None:
    client = pki.issue("ann", "ann.example")
    told = base64.b64encode(der_of(client[0])).decode()
    for either in (door, strict):
        assert ask(either, pki.context(client), headers={PEER: "me"})["headers"][PEER] == told
        assert call(either, pki.grpc(client), metadata=[(PEER, "me")])["headers"][PEER] == told


def test_a_request_that_waits_for_a_gateway_keeps_its_callers_certificate(pki: Pki) -> None:
    client = pki.issue("ann", "ann.example")
    with live_door(tls=tls_of(pki)) as door, ThreadPoolExecutor(1) as aside:
        door.start().kill()
        asked = aside.submit(ask, door, pki.context(client))
        door.start()
        assert asked.result(LIMIT_S)["headers"][PEER] == base64.b64encode(der_of(client[0])).decode()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_shows_a_certificate_is_verified_anew_on_each_connection(strict: LiveDoor, pki: Pki, version: ssl.TLSVersion) -> None:
    client = pki.issue("ann", "ann.example")
    context = pki.context(client)
    context.minimum_version = context.maximum_version = version
    with connected(strict, context) as first:
        exchange(first)
        session = first.session
    with connected(strict, context, session) as again:
        assert exchange(again)["headers"][PEER] == base64.b64encode(der_of(client[0])).decode()
        assert not again.session_reused


def test_a_large_certificate_leaves_the_head_its_room(strict: LiveDoor, pki: Pki) -> None:
    names = [f"{number:03}.{'a' * 40}.example" for number in range(75)]
    client = pki.issue("large", *names)
    der = der_of(client[0])
    assert len(der) > 4000
    head = {f"x-{number}": "b" * 1000 for number in range(15)}  # 16 KiB are allowed
    headers = ask(strict, pki.context(client), headers=head)["headers"]
    assert (headers[PEER], headers["x-14"]) == (base64.b64encode(der).decode(), "b" * 1000)
    assert call(strict, pki.grpc(client), metadata=list(head.items()))["headers"][PEER] == base64.b64encode(der).decode()


def test_a_certificate_that_does_not_hold_is_refused_though_none_is_asked_for(door: LiveDoor, pki: Pki, others: Pki) -> None:
    """And one of the same authority that has ended."""
    for client, why in ((others.issue("eve"), "UNKNOWN_CA"), (pki.expired("late"), "CERTIFICATE_EXPIRED")):
        refused(door, pki.context(client), why, pki, client)


def test_without_a_certificate_nobody_comes_in_where_one_is_required(strict: LiveDoor, pki: Pki, others: Pki) -> None:
    refused(strict, pki.context(), "CERTIFICATE_REQUIRED", pki)
    client = others.issue("eve")
    refused(strict, pki.context(client), "UNKNOWN_CA", pki, client)


def test_this_machines_own_commands_come_in_by_a_socket_that_only_this_user_can_open(strict: LiveDoor) -> None:
    path = strict.folder / LOCAL
    assert (strict.folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=LIMIT_S) as client:
        headers = client.post(f"http://gateway{INFER}", headers={PEER: "me", "x-forwarded-for": "9.9.9.9"}).json()["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert PEER not in headers


def test_what_haproxy_reads_is_for_nobody_else(door: LiveDoor) -> None:
    for name in (CERTIFICATE, CLIENT_CA):
        assert (door.folder / name).stat().st_mode & 0o777 == 0o600


def test_a_door_without_good_files_does_not_open(pki: Pki, tmp_path: Path) -> None:
    certificate, _ = pki.issue("door-2")
    _, key = pki.issue("door-3")
    with live_door(tls=DoorTls(str(certificate), str(key))) as door, pytest.raises(BadInput, match="is not of this key"):
        Door.enter(door.settings, door.node)
