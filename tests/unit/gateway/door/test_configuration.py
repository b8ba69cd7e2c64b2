"""HAProxy's configuration: what follows from which setting, and that HAProxy takes it."""

from __future__ import annotations

import re
import socket
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.errors import Conflict
from deployments.gateway.door.configuration import CERTIFICATE, CLIENT_CA, STATE, Listening, Way, configuration, slots_state
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.settings import ClientCertificates, DoorSettings, DoorTls, read_settings
from tests.support.certificates import Pki

FOLDER = Path("/tmp/headrace-door-x")  # noqa: S108 (never made)
SETTINGS = DoorSettings("haproxy", "127.0.0.1", 8000, 9000, slots=3)
BOTH = Listening(7, 8, 5000)


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each section."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(" "):
            found[name].append(line.strip())
        elif line:
            name = line
            found[name] = []
    return found


def test_the_same_settings_give_the_same_configuration() -> None:
    assert configuration(SETTINGS, FOLDER, BOTH) == configuration(SETTINGS, FOLDER, BOTH)


def test_callers_come_in_at_two_inherited_sockets_and_everything_else_is_in_the_folder() -> None:
    text = configuration(SETTINGS, FOLDER, BOTH)
    assert re.findall(r"bind (\S+)", text) == ["fd@7", "fd@8", f"unix@{FOLDER}/again.sock"]
    assert all(address.startswith(f"unix@{FOLDER}/") for address in re.findall(r"server \S+ (\S+)", text))
    assert f"stats socket unix@{FOLDER}/admin.sock mode 600" in text


def test_without_a_grpc_port_there_is_no_grpc() -> None:
    found = sections(configuration(replace(SETTINGS, grpc_port=None), FOLDER, Listening(7, None, 5000)))
    assert "frontend http" in found
    assert "frontend grpc" not in found


def test_one_backend_checks_the_slots_and_all_others_follow_it() -> None:
    found = sections(configuration(SETTINGS, FOLDER, BOTH))
    for name, lines in found.items():
        servers = [line for line in lines if re.match(r"server s\d", line)]
        assert len(servers) in (0, SETTINGS.slots), name
        for number, server in enumerate(servers, 1):
            assert (" check " in server) == (name == "backend infer"), server
            assert (f" track infer/s{number}" in server) == (name != "backend infer"), server


@pytest.mark.parametrize("way", Way)
def test_a_request_reaches_two_gateways_at_most(way: Way) -> None:
    found = sections(configuration(SETTINGS, FOLDER, BOTH))
    for name in (f"backend {way}", f"backend {way}_last"):
        assert {"retries 1", "option redispatch 1", "retry-on conn-failure empty-response"} <= set(found[name])
    assert "retry-on conn-failure" in found[f"backend {way}_again"]
    assert [line for line in found[f"backend {way}_last"] if "keeper" in line]
    assert not [line for line in found[f"backend {way}"] + found[f"backend {way}_again"] if "keeper" in line]


@pytest.mark.parametrize("name", ["commands", "grpc_streams"])
def test_what_may_not_be_done_twice_is_handed_over_once(name: str) -> None:
    lines = sections(configuration(SETTINGS, FOLDER, BOTH))[f"backend {name}"]
    assert "retry-on conn-failure" in lines  # then nobody has got it
    assert "http-reuse never" in lines  # an old connection may end as it is used
    assert not [line for line in lines if "keeper" in line]


def test_a_body_that_may_be_handed_on_fits_beside_its_head() -> None:
    text = configuration(replace(SETTINGS, handed_on_bytes=1 << 20), FOLDER, BOTH)
    assert int(re.search(r"tune.bufsize (\d+)", text)[1]) >= (1 << 20) + SETTINGS.head_bytes  # type: ignore[index]


def test_times_follow_from_sizes_and_the_least_rate() -> None:
    text = configuration(replace(SETTINGS, handed_on_bytes=100_000, head_bytes=20_000, least_bytes_per_s=1000), FOLDER, BOTH)
    assert "timeout http-request 120s" in text
    assert "wait-for-body time 100s" in text


def test_haproxy_begins_with_the_slots_that_are_taken() -> None:
    lines = slots_state(SETTINGS, [2]).splitlines()
    assert lines[0] == "1"
    assert [(line.split()[3], line.split()[5]) for line in lines[2:]] == [("s1", "0"), ("s2", "2"), ("s3", "0")]


@pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here")
@pytest.mark.parametrize("slots", [1, 3, 128])
@pytest.mark.parametrize("grpc", [True, False])
def test_haproxy_takes_it(tmp_path: Path, slots: int, grpc: bool) -> None:
    settings = replace(SETTINGS, slots=slots, grpc_port=9000 if grpc else None)
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as other:
        listening = Listening(http.fileno(), other.fileno() if grpc else None, 1000)
        file = tmp_path / "haproxy.cfg"
        file.write_text(configuration(settings, tmp_path, listening))
        (tmp_path / STATE).write_text(slots_state(settings, [1]))
        done = subprocess.run(
            [str(usable_haproxy()), "-c", "-V", "-f", str(file)],
            capture_output=True,
            text=True,
            check=False,
            pass_fds=(http.fileno(), other.fileno()),
        )
    assert done.returncode == 0, done.stderr
    assert "[ALERT]" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if "[WARNING]" in line and "parsing" in line]


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    SETTINGS.write(tmp_path)
    assert read_settings(tmp_path) == SETTINGS


@pytest.mark.parametrize("text", ["{", "[]", '{"host": "x"}', '{"binary": "x", "what": 1}'])
def test_another_versions_settings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "door.json").write_text(text)
    with pytest.raises(Conflict, match="another version of headrace"):
        read_settings(tmp_path)


TLS = DoorTls("/etc/door.pem", "/etc/door.key")


def binds(tls: DoorTls | None) -> list[str]:
    return re.findall(r"bind (fd@.*)", configuration(replace(SETTINGS, tls=tls), FOLDER, BOTH))


def test_tls_is_spoken_at_both_sockets_and_callers_certificates_are_asked_for_where_their_authority_is_known() -> None:
    assert binds(None) == ["fd@7", "fd@8"]
    http, grpc = f"fd@7 ssl crt {FOLDER}/certificate.pem alpn h2,http/1.1", f"fd@8 ssl crt {FOLDER}/certificate.pem alpn h2"
    assert binds(TLS) == [http, grpc]
    for wanted in ClientCertificates:
        known = f" ca-file {FOLDER}/client-ca.pem verify {wanted} no-tls-tickets"
        assert binds(replace(TLS, client_ca="/etc/ca.pem", client_certificates=wanted)) == [http + known, grpc + known]


def test_a_callers_certificate_is_told_after_what_he_says_of_it_is_taken_away() -> None:
    found = sections(configuration(replace(SETTINGS, tls=replace(TLS, client_ca="/etc/ca.pem")), FOLDER, BOTH))
    for name in ("frontend http", "frontend grpc"):
        own = found[name].index("http-request del-header x-headrace- -m beg")
        (told,) = [at for at, line in enumerate(found[name]) if "x-headrace-peer" in line]
        assert own < told
    for tls in (None, TLS):
        assert "x-headrace-peer" not in configuration(replace(SETTINGS, tls=tls), FOLDER, BOTH)


def test_settings_of_tls_are_read_as_they_were_written_and_those_of_before_tls_too(tmp_path: Path) -> None:
    for tls in (None, TLS, DoorTls("a", "b", "c", ClientCertificates.REQUIRED)):
        settings = replace(SETTINGS, tls=tls)
        settings.write(tmp_path)
        assert read_settings(tmp_path) == settings
    document = asdict(SETTINGS)
    del document["tls"]
    assert DoorSettings.from_document(document) == SETTINGS


@pytest.mark.parametrize(
    "tls", [TLS, replace(TLS, client_ca=str(FOLDER), client_certificates=ClientCertificates.REQUIRED)], ids=str
)
def test_haproxy_takes_it_with_tls(tmp_path: Path, tls: DoorTls) -> None:
    binary = usable_haproxy()
    if binary is None:
        pytest.skip("Ray brings no HAProxy here")
    pki = Pki(tmp_path)
    certificate, key = pki.issue("door")
    (tmp_path / CERTIFICATE).write_bytes(certificate.read_bytes() + key.read_bytes())
    (tmp_path / CLIENT_CA).write_bytes(pki.ca.read_bytes())
    with socket.socket() as http, socket.socket() as grpc:
        for one in (http, grpc):
            one.bind(("127.0.0.1", 0))
        listening = Listening(http.fileno(), grpc.fileno(), 5000)
        file = tmp_path / "haproxy.cfg"
        file.write_text(configuration(replace(SETTINGS, tls=tls), tmp_path, listening))
        done = subprocess.run([binary, "-c", "-f", file], capture_output=True, text=True, pass_fds=(http.fileno(), grpc.fileno()))
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
