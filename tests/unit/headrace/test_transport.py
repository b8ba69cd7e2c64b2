"""How commands reach a door with TLS: on its machine, and from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cluster.errors import BadInput, HeadraceError, Unreachable
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from headrace.client import ControlClient
from headrace.local.home import Home, Settings, read_settings
from headrace.local.options import UpOptions
from headrace.local.repairs.look import look
from headrace.local.run_state import Addresses, Phase, RunState, load_run, save_run
from headrace.transport import transport_to
from tests.support.certificates import Pki
from tests.support.door import LiveDoor, door_settings

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
    pytest.mark.timeout(120),
]
LIMIT_S = 30.0


@dataclass(frozen=True)
class Run:
    """A door of a run, whose certificate names another machine; callers must have one too. `home` is where its run.json is."""

    door: LiveDoor
    pki: Pki
    home: Home
    options: UpOptions

    def settings(self, **variables: str) -> Settings:
        """Of its own home."""
        return read_settings({"HEADRACE_HOME": str(self.home.root), **variables})

    def state(self, run_id: str | None = None) -> RunState:
        """What its run.json says."""
        return RunState(
            run_id=run_id or self.door.settings.run,
            phase=Phase.RUNNING,
            started_s=1.0,
            owns_ray=False,
            addresses=Addresses(http=self.door.http, ray="ray:1"),
            options=self.options,
        )


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    pki, home = Pki(tmp_path_factory.mktemp("pki")), Home(tmp_path_factory.mktemp("home"))
    certificate, key = pki.issue("door", "elsewhere.example")
    tls = DoorTls(str(certificate), str(key), str(pki.ca), ClientCertificates.REQUIRED)
    options = UpOptions(
        tls_cert=tls.certificate, tls_key=tls.key, client_ca=tls.client_ca, client_certs=ClientCertificates.REQUIRED
    )
    door = LiveDoor(door_settings(tls=tls, run=uuid.uuid4().hex), program="tests.support.pair_gateway")
    try:
        door.start()
        yield Run(door, pki, home, options)
    finally:
        door.close()


@pytest.fixture
def run(opened: Run) -> Run:
    save_run(opened.home, opened.state())
    return opened


def ready(settings: Settings, url: str) -> int:
    with httpx.Client(transport=transport_to(url, settings), timeout=LIMIT_S, trust_env=False) as client:
        return client.get(f"{url}/v2/health/ready").status_code


def test_this_machines_commands_need_neither_its_name_nor_a_certificate(run: Run) -> None:
    assert ready(run.settings(), run.door.http) == 200
    assert look(run.state(), run.settings()) == ()
    with ControlClient.from_environment(run.settings()) as control:
        assert control.base_url == run.door.http
        with pytest.raises(HeadraceError, match="the answer is not what this version of headrace knows"):
            control.status()  # of a gateway without a controller


def test_a_long_command_finds_the_door_of_the_next_start(run: Run) -> None:
    with httpx.Client(transport=transport_to(run.door.http, run.settings()), timeout=LIMIT_S, trust_env=False) as client:
        ask = f"{run.door.http}/v2/health/ready"
        assert client.get(ask).status_code == 200
        save_run(run.home, run.state("another run"))  # without a door here: its certificate is trusted, but callers need one
        with pytest.raises(httpx.TransportError, match="CERTIFICATE_REQUIRED"):
            client.get(ask)
        save_run(run.home, run.state())
        assert client.get(ask).status_code == 200


def test_of_a_door_on_another_machine_its_own_certificate_is_trusted_and_no_other(run: Run) -> None:
    client, key = run.pki.issue("client")
    known = run.settings(HEADRACE_CLIENT_CERT=str(client), HEADRACE_CLIENT_KEY=str(key))
    save_run(run.home, run.state("another machine's"))
    assert ready(known, run.door.http) == 200
    other, _ = run.pki.issue("other", "elsewhere.example")
    options = dataclasses.replace(run.options, tls_cert=str(other))
    save_run(run.home, run.state("another machine's").model_copy(update={"options": options}))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        ready(known, run.door.http)


def test_from_elsewhere_the_operator_says_whom_to_trust_and_what_to_show(run: Run, tmp_path: Path) -> None:
    client, key = run.pki.issue("client")
    own = {"HEADRACE_CLIENT_CERT": str(client), "HEADRACE_CLIENT_KEY": str(key)}

    def refusal(variables: dict[str, str]) -> Unreachable:
        settings = read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_URL": run.door.http, **variables})
        with ControlClient.from_environment(settings) as control, pytest.raises(Unreachable) as refused:
            control.feeds()
        return refused.value

    untrusted = refusal(own)
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted.what
    assert "HEADRACE_CA_FILE" in untrusted.remedy
    misnamed = refusal({**own, "HEADRACE_CA_FILE": str(run.pki.ca)})
    assert "IP address mismatch" in misnamed.what
    assert "by a name that stands in it" in misnamed.remedy
    named, secret = run.pki.issue("named")
    tls = DoorTls(str(named), str(secret), str(run.pki.ca), ClientCertificates.REQUIRED)
    door = LiveDoor(door_settings(tls=tls), program="tests.support.pair_gateway")
    try:
        door.start()
        for trusted in (run.pki.ca, named):
            told = {"HEADRACE_HOME": str(tmp_path), "HEADRACE_CA_FILE": str(trusted)}
            assert ready(read_settings({**told, **own}), door.http) == 200
        unknown = ControlClient.from_environment(read_settings({**told, "HEADRACE_URL": door.http}))
        with unknown as control, pytest.raises(Unreachable, match="CERTIFICATE_REQUIRED") as refused:
            control.feeds()
        assert "HEADRACE_CLIENT_CERT" in refused.value.remedy
    finally:
        door.close()


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"HEADRACE_CA_FILE": "absent"}, "HEADRACE_CA_FILE"),
        ({"HEADRACE_CA_FILE": "text"}, "HEADRACE_CA_FILE"),
        ({"HEADRACE_CLIENT_CERT": "text"}, "HEADRACE_CLIENT_CERT"),
        ({"HEADRACE_CLIENT_KEY": "text"}, "HEADRACE_CLIENT_KEY"),
    ],
)
def test_files_that_cant_be_used_are_named(tmp_path: Path, variables: dict[str, str], where: str) -> None:
    (tmp_path / "text").write_text("text")
    paths = {name: str(tmp_path / path) for name, path in variables.items()}
    with pytest.raises(BadInput) as refused:
        transport_to("https://elsewhere.example", read_settings({"HEADRACE_HOME": str(tmp_path), **paths}))
    assert refused.value.where == where
    in_clear = transport_to("http://elsewhere.example", read_settings({"HEADRACE_HOME": str(tmp_path), **paths}))
    assert isinstance(in_clear, httpx.HTTPTransport)


def test_a_run_of_a_version_without_tls_is_read(tmp_path: Path, run: Run) -> None:
    document = run.state().model_dump(mode="json")
    for name in ("tls_cert", "tls_key", "client_ca", "client_certs"):
        del document["options"][name]
    home = Home(tmp_path)
    home.run_file.write_text(json.dumps(document))
    assert (loaded := load_run(home)) is not None
    assert loaded.options == UpOptions()
    save_run(home, run.state())
    assert load_run(home) == run.state()
