"""Certificates that are renewed while a real door serves: nobody is dropped, and what does not hold is not taken."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509

from deployments.gateway.door.configuration import ADMIN
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.keeper import LOG
from deployments.gateway.door.renewals import REFUSED, Renewals
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from tests.support.certificates import Pki, replace
from tests.support.door import LiveDoor, kill, live_door
from tests.support.door_calls import AT_ONCE, Calls
from tests.support.waiting import until

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
    pytest.mark.timeout(120),
]
INFER, MODEL_INFER = "/v2/models/m/infer", "/inference.GRPCInferenceService/ModelInfer"
LIMIT_S = 30.0


@dataclass(frozen=True)
class Renewed:
    """A door whose files are renewed, and an authority that its callers trust."""

    door: LiveDoor
    pki: Pki
    certificate: Path
    key: Path

    @property
    def log(self) -> str:
        """What the keeper has said."""
        file = self.door.folder / LOG
        return file.read_text() if file.exists() else ""

    def shown(self, port: int | None = None) -> int:
        """The serial number of the certificate that a new connection meets."""
        address = (self.door.settings.host, port or self.door.settings.http_port)
        with (
            socket.create_connection(address, timeout=LIMIT_S) as plain,
            self.pki.context().wrap_socket(plain, server_hostname="localhost") as caller,
        ):
            shown = caller.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def in_file(self) -> int:
        """The one that the operator has."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number

    def await_taken(self) -> None:
        """Returns when both ports show it."""
        for port in (self.door.settings.http_port, self.door.settings.grpc_port):
            until(lambda port=port: self.shown(port) == self.in_file(), LIMIT_S)

    def await_refusal(self, why: str) -> None:
        """Returns when the keeper has told, once, and leaves things as they are."""
        until(lambda: why in self.log, LIMIT_S)


@pytest.fixture
def renewed(tmp_path: Path) -> Iterator[Renewed]:
    pki = Pki(tmp_path)
    certificate, key = pki.issue("door")
    with live_door(tls=DoorTls(str(certificate), str(key))) as door:
        door.start()
        yield Renewed(door, pki, certificate, key)


@contextmanager
def load(renewed: Renewed, callers: int = 2) -> Iterator[Calls]:
    """Callers on connections that they keep, and some who make a new one for each call, by HTTP and by gRPC."""
    calls, stop = Calls(LIMIT_S), threading.Event()
    door, context, credentials = renewed.door, renewed.pki.context(), renewed.pki.grpc()

    def on_one_connection() -> None:
        with httpx.Client(verify=context, timeout=LIMIT_S, trust_env=False) as client:
            ask_on(lambda: client.post(door.http + INFER, content=b"x").raise_for_status())

    def each_anew() -> None:
        def ask() -> None:
            with httpx.Client(verify=context, timeout=LIMIT_S, trust_env=False) as client:
                client.post(door.http + INFER, content=b"x").raise_for_status()

        ask_on(ask)

    def by_grpc() -> None:
        with grpc.secure_channel(door.grpc, credentials, options=[("grpc.enable_retries", 0), *AT_ONCE]) as channel:
            infer = channel.unary_unary(MODEL_INFER)
            ask_on(lambda: infer(b"x", timeout=LIMIT_S))

    def ask_on(ask: Callable[[], object]) -> None:
        while not stop.wait(0.002):
            try:
                ask()
            except (httpx.HTTPError, grpc.RpcError, OSError) as error:
                calls.count(repr(error)[:200])
            else:
                calls.count(None)

    with ThreadPoolExecutor(3 * callers) as pool:
        running = [pool.submit(by) for by in (on_one_connection, each_anew, by_grpc) for _ in range(callers)]
        try:
            yield calls
        finally:
            stop.set()
    for one in running:
        one.result()


def test_a_renewed_certificate_costs_nobody_his_answer(renewed: Renewed) -> None:
    first = renewed.shown()
    context = renewed.pki.context()
    with (
        socket.create_connection((renewed.door.settings.host, renewed.door.settings.http_port), timeout=LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as kept,
        load(renewed) as calls,
    ):
        for _ in range(3):
            calls.await_answers(200)
            renewed.pki.issue("door")
            renewed.await_taken()
            calls.await_answers(200)
            kept.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
            assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert calls.failed == Counter()
    assert renewed.shown() != first
    assert renewed.log.count("taken up") == 3


def test_a_connection_is_resumed_where_no_certificates_of_callers_are_known(renewed: Renewed) -> None:
    context = renewed.pki.context()
    session = _session(renewed.door, context)
    with (
        socket.create_connection((renewed.door.settings.host, renewed.door.settings.http_port), timeout=LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as caller,
    ):
        assert caller.session_reused


def test_haproxy_and_a_keeper_that_are_started_again_have_the_renewed_one(renewed: Renewed) -> None:
    renewed.pki.issue("door")
    renewed.await_taken()
    killed = renewed.door.haproxy
    kill(killed)
    until(lambda: renewed.door.keeper.children() not in ([], [killed]), LIMIT_S)
    until(lambda: renewed.shown() == renewed.in_file(), LIMIT_S, trouble=(OSError,))
    # What does not hold when the keeper starts does not keep it from it.
    good = renewed.in_file()
    renewed.certificate.write_text("half a fi")
    kill(renewed.door.keeper)
    until(lambda: "no certificate in it that can be read" in renewed.log, LIMIT_S)
    until(lambda: renewed.shown() == good, LIMIT_S, trouble=(OSError,))
    renewed.pki.issue("door")
    renewed.await_taken()


def test_what_does_not_hold_is_not_taken_and_told_once(renewed: Renewed, tmp_path: Path) -> None:
    old = renewed.shown()
    (tmp_path / "other").mkdir()
    other, _ = Pki(tmp_path / "other", renewed.pki.authority).issue("other")
    replace(renewed.certificate, other.read_bytes())
    renewed.await_refusal("is not of this key")
    assert (renewed.door.folder / REFUSED).read_text() in renewed.log
    renewed.certificate.unlink()
    renewed.await_refusal("can't be read: No such file or directory")
    assert renewed.shown() == old
    renewed.pki.issue("door")
    renewed.await_taken()
    until(lambda: not (renewed.door.folder / REFUSED).exists(), LIMIT_S)
    assert renewed.log.count("not taken up") == 2


def test_a_renewed_client_ca_holds_for_new_connections_at_once(tmp_path: Path) -> None:
    pki, folder = Pki(tmp_path), tmp_path / "others"
    folder.mkdir()
    others = Pki(folder)
    certificate, key = pki.issue("door")
    authorities = tmp_path / "callers.pem"
    replace(authorities, pki.ca.read_bytes())
    with live_door(tls=DoorTls(str(certificate), str(key), str(authorities), ClientCertificates.REQUIRED)) as door:
        door.start()
        ours, theirs = pki.issue("ours"), others.issue("theirs")
        known = pki.context(ours)
        assert _asked(door, known) is None
        session = _session(door, known)
        assert "UNKNOWN_CA" in str(_asked(door, pki.context(theirs)))
        with httpx.Client(verify=known, timeout=LIMIT_S, trust_env=False) as kept:
            kept.post(door.http + INFER).raise_for_status()
            replace(authorities, others.ca.read_bytes())
            until(lambda: _asked(door, pki.context(theirs)) is None, LIMIT_S)
            assert kept.post(door.http + INFER).status_code == 200  # it was let in before
        for again in (None, session):
            assert "UNKNOWN_CA" in str(_asked(door, known, again)), "a session outlives its authority"


def _session(door: LiveDoor, context: ssl.SSLContext) -> ssl.SSLSession | None:
    with (
        socket.create_connection((door.settings.host, door.settings.http_port), timeout=LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as caller,
    ):
        caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
        assert caller.recv(1 << 16).startswith(b"HTTP/1.1 200")
        return caller.session


def _asked(door: LiveDoor, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Exception | None:
    """Why a caller is not answered on a new connection; None where he is."""
    try:
        with (
            socket.create_connection((door.settings.host, door.settings.http_port), timeout=LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as caller,
        ):
            caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
            assert caller.recv(1 << 16).startswith(b"HTTP/1.1 200")
    except OSError as error:
        return error
    return None


class Admin:
    """HAProxy's admin socket. Says what it is told to; `commands` are what it was asked, without what came with it."""

    def __init__(self, *answers: str) -> None:
        self.commands: list[str] = []
        self._answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = (await reader.readline()).decode()
        self.commands.append(" ".join(first.split()[:3]))
        while first.endswith("<<\n") and (await reader.readline()) != b"\n":
            pass
        writer.write(self._answers.pop(0).encode())
        writer.close()


async def looked(folder: Path, pki: Pki, admin: Admin, starts: Callable[[], int], looks: int) -> list[str]:
    """What is logged in so many looks after a renewal."""
    certificate, key = pki.issue("door")
    log: list[str] = []
    renewals = Renewals(DoorTls(str(certificate), str(key)), folder, starts, log.append)
    renewals.prepare()
    pki.issue("door")
    async with await asyncio.start_unix_server(admin.serve, folder / ADMIN):
        for _ in range(looks):
            for kept in renewals._kept:
                await renewals._look(kept)
    return log


CREATED, COMMITTED = "Transaction created for certificate x!\n", "Committing x.\nSuccess!\n"
SET, COMMIT, ABORT = (f"{word} ssl cert" for word in ("set", "commit", "abort"))


def test_haproxy_that_was_started_again_meanwhile_is_told_once_more(tmp_path: Path) -> None:
    admin, starts = Admin(*(CREATED, COMMITTED) * 2), iter([1, 2, 2, 2])
    log = asyncio.run(looked(tmp_path, Pki(tmp_path), admin, lambda: next(starts), looks=3))
    assert admin.commands == [SET, COMMIT] * 2
    assert [line.partition(" taken up")[2] for line in log] == [": new connections meet what is new"]


def test_what_haproxy_does_not_take_is_taken_back_and_tried_again(tmp_path: Path) -> None:
    no = "unable to load certificate x: ee key too small\n"
    admin = Admin(no, "", CREATED, "Can't commit x!\n", "", CREATED, COMMITTED)
    log = asyncio.run(looked(tmp_path, Pki(tmp_path), admin, lambda: 1, looks=4))
    assert admin.commands == [SET, ABORT, SET, COMMIT, ABORT, SET, COMMIT]
    assert len(log) == 1  # none of the two refusals was still so at the look after it
