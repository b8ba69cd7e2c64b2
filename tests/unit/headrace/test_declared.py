"""What was declared stays until it is changed on purpose: policies, the options of a run that crashed, what was applied since."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster.errors import Conflict, HeadraceError, NotFound
from deployments.images.image import DOCUMENT
from deployments.observe.logs.settings import LogForm
from headrace.cli import local
from headrace.client import ControlClient
from headrace.local import up
from headrace.local.declared.as_it_was import as_it_was
from headrace.local.declared.policies import as_declared, declare
from headrace.local.home import Settings, read_settings
from headrace.local.options import UpOptions
from headrace.local.repairs.aboard import take_aboard
from headrace.local.run_state import Phase, RunState, load_run, save_run
from tests.support.brain import SIGNATURE, Brain
from tests.support.brain_client import ask_brain
from tests.support.models import mlp_artifact


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"HEADRACE_HOME": str(tmp_path / "home")})


def left(options: UpOptions, *, owns_ray: bool = True) -> RunState:
    return RunState(run_id="a", phase=Phase.RUNNING, started_s=1.0, owns_ray=owns_ray, options=options)


def test_policies_hold_for_later_starts_until_others_are_declared(settings: Settings) -> None:
    assert as_declared(UpOptions(), settings) == (UpOptions(), settings, ())
    told = replace(settings, audit_places=("s3://me:secret@locked/audit", "/mnt/other"))
    declare(UpOptions(signing="/policy.yaml"), told)
    options, later, lines = as_declared(UpOptions(broker=True), settings)
    assert (options.signing, options.broker, later.audit_places) == ("/policy.yaml", True, told.audit_places)
    assert "/policy.yaml" in lines[0]
    assert "--signing none" in lines[0]
    assert "secret" not in lines[1]
    declare(options, later)
    options, later, lines = as_declared(UpOptions(signing="/other.yaml"), replace(settings, audit_places=("none",)))
    assert (options.signing, later.audit_places, lines) == ("/other.yaml", (), ())
    declare(options, later)
    options, later, lines = as_declared(UpOptions(signing="none"), settings)
    assert (options.signing, later.audit_places, lines) == ("", (), ())
    declare(options, later)
    assert as_declared(UpOptions(), settings) == (UpOptions(), settings, ())


def test_another_store_is_never_begun_because_nothing_was_said(settings: Settings, tmp_path: Path) -> None:
    home = {"HEADRACE_HOME": str(tmp_path / "home")}
    there = "postgresql+psycopg://me:secret@there/headrace"
    declare(UpOptions(), read_settings(home | {"HEADRACE_STORE_URL": there}))
    with pytest.raises(Conflict, match=r"postgresql\+psycopg://me:\*\*\*@there/headrace") as refused:
        as_declared(UpOptions(), settings)
    assert "secret" not in settings.home.declared_file.read_text()
    own = read_settings(home | {"HEADRACE_STORE_URL": f"sqlite:///{settings.home.store}"})
    assert str(settings.home.store) in refused.value.remedy
    declare(*as_declared(UpOptions(), own)[:2])
    assert as_declared(UpOptions(), settings) == (UpOptions(), settings, ())


def test_policies_that_nobody_can_read_are_no_reason_to_go_without(settings: Settings) -> None:
    settings.home.make()
    settings.home.declared_file.write_text("{")
    with pytest.raises(Conflict, match=r"declared\.json"):
        as_declared(UpOptions(), settings)


def test_a_start_without_a_policy_looks_at_the_declared_one(settings: Settings, tmp_path: Path) -> None:
    declare(UpOptions(signing=str(tmp_path / "gone.yaml")), settings)
    with pytest.raises(HeadraceError, match=r"gone\.yaml"):
        up.bring_up(UpOptions(), settings, lambda *_: None)


def test_a_run_that_crashed_is_brought_back_as_it_was() -> None:
    before = UpOptions(broker=True, http_port=8001, signing="/policy.yaml", access="/a.yaml", gateways=2, most_gateways=4)
    options, kept = as_it_was(UpOptions(), (), left(before), owns_ray=True)
    assert options == replace(before, access="")
    assert kept == ("--http-port", "--gateways", "--broker", "--signing")
    options, kept = as_it_was(UpOptions(signing="none"), ("signing", "http_port"), left(before), owns_ray=True)
    assert (options.signing, options.http_port, kept) == ("none", 8000, ("--gateways", "--broker"))
    assert as_it_was(UpOptions(), (), None, owns_ray=True) == (UpOptions(), ())  # `down` has ended it
    assert as_it_was(UpOptions(), (), left(before, owns_ray=False), owns_ray=True) == (UpOptions(), ())


def test_a_run_that_crashed_is_still_known_after_an_up_that_failed(settings: Settings, tmp_path: Path) -> None:
    crashed = left(UpOptions(http_port=8001))
    settings.home.make()
    save_run(settings.home, crashed)
    with pytest.raises(HeadraceError, match=r"gone\.yaml"):
        up.bring_up(UpOptions(signing=str(tmp_path / "gone.yaml")), settings, lambda *_: None)
    assert load_run(settings.home) == crashed


def test_up_knows_what_was_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.make()
    save_run(settings.home, left(UpOptions(http_port=8001, grpc_port=9001, log_form=LogForm.JSON, signing="/policy.yaml")))
    asked: list[UpOptions] = []

    def bring_up(options: UpOptions, *_: object) -> None:
        asked.append(options)
        raise typer.Exit(0)

    monkeypatch.setattr(up, "bring_up", bring_up)
    monkeypatch.setenv("HEADRACE_HOME", str(settings.home.root))
    monkeypatch.setenv("HEADRACE_LOG_FORM", "text")
    for name in ("RAY_ADDRESS", "HEADRACE_RAY_ADDRESS", "HEADRACE_SIGNING"):
        monkeypatch.delenv(name, raising=False)
    assert CliRunner().invoke(_app(), ["up", "--http-port", "8000"]).exit_code == 0
    (options,) = asked
    assert (options.http_port, options.grpc_port, options.log_form, options.signing) == (8000, 9001, "text", "/policy.yaml")


def _app() -> typer.Typer:
    return local.app


ACCESS = {"grants": [{"to": {"key": "ops"}, "roles": ["admin"], "models": ["*"]}]}
LATER = {"grants": [{"to": {"key": "other"}, "roles": ["admin"], "models": ["*"]}]}


def test_an_access_document_that_is_given_at_each_start_undoes_nothing() -> None:
    brain = Brain()
    assert brain.call("apply", access=ACCESS, standing=True)["changes"][0]["action"] == "created"
    brain.call("apply", access=LATER)
    applied = brain.store.load().access
    brain.revive()
    (change,) = brain.call("apply", access=ACCESS, standing=True)["changes"]
    assert change["action"] == "unchanged"
    assert "headrace apply" in change["note"]
    assert brain.store.load().access == applied
    changed = {"grants": [*ACCESS["grants"], *LATER["grants"]]}
    assert (
        brain.call("apply", access=changed, standing=True)["changes"][0]["action"] == "updated"
    )  # the file was changed on purpose
    assert brain.call("apply", access=changed, standing=True)["changes"][0]["note"] == ""
    assert brain.call("apply", access=ACCESS)["changes"][0]["action"] == "updated"


def test_a_version_that_is_brought_at_each_start_stays_removed() -> None:
    brain = Brain()
    brain.serve_first()
    wanted = {"model": "digits", "artifact_uri": "file:///a", "digest": "d9", "engine": "onnx", "signature": SIGNATURE}
    first = brain.call("version.register", **wanted, standing=True)
    assert brain.call("version.register", **wanted, standing=True)["version"] == first["version"]
    brain.tick(4)
    brain.call("rollout.abort", model="digits")
    brain.tick(200)
    brain.call("version.remove", model="digits", version=first["version"])
    brain.revive()
    with pytest.raises(NotFound, match="somebody has removed it since"):
        brain.call("version.register", **wanted, standing=True)
    assert json.dumps(brain.call("version.register", **wanted))  # by hand it comes back


def test_what_an_image_brings_is_brought_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brain = Brain()
    ask_brain(brain, monkeypatch)
    uri, digest, _ = mlp_artifact(tmp_path / "image")
    assert Path(uri).name == digest
    (tmp_path / "image" / "digits" / DOCUMENT).write_text('{"name": "digits"}')

    def start() -> list[str]:
        lines: list[str] = []
        with ControlClient.from_environment() as client:
            assert take_aboard(client, tmp_path / "image", lines.append) == ()
        return lines

    assert start() == ["digits: version 1 of the image", "digits: served as the image says"]
    assert start() == []
    brain.call("model.delete", model="digits")
    brain.tick(200)
    assert brain.store.load().models == {}
    (line,) = start()
    assert "stays away" in line
    assert brain.store.load().models == {}
