"""`headrace sealing`, and commands on versions that are sealed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import headrace.cli.model as model_commands
import headrace.cli.sealing.sealing as sealing_commands
from cluster.commands.command import Nothing
from cluster.commands.models import ModelView
from cluster.commands.watch.by_hand import TellAct
from deployments.artifacts.manifest import KEYS
from deployments.artifacts.version_files import open_folder
from deployments.keys.ring import VARIABLE
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from tests.support.models import mlp_artifact
from tests.support.sealed import PAGE_TEXT, sealed_copy


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "home"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main([*words, "--json"]) == ExitCode.OK
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_key_is_made_once_and_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = told(capsys, "sealing", "new", "prod")
    private = home / "keys" / "prod.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert (home / "keys").stat().st_mode & 0o077 == 0
    assert main(["sealing", "new", "prod"]) == ExitCode.CONFLICT
    assert "there is a key of that name" in capsys.readouterr().err
    assert told(capsys, "sealing", "ls") == {"keys": [{"key": made["key"], "where": str(private), "opens": True}]}
    private.unlink()
    assert told(capsys, "sealing", "ls") == {
        "keys": [{"key": made["key"], "where": str(home / "keys" / "prod.pub"), "opens": False}]
    }


def test_a_version_is_sealed_for_another_key(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [told(capsys, "sealing", "new", name)["key"] for name in ("old", "new")]
    holder = sealing_commands.holder_of("old", folder=home / "keys")
    artifact = sealed_copy(Path(mlp_artifact(tmp_path / "plain")[0]), tmp_path / "sealed", holder)
    before = (Path(artifact.uri) / KEYS).read_bytes()
    found = told(capsys, "sealing", "ls", artifact.uri)
    assert found["versions"] == [{"version": artifact.uri, "sealed": True, "keys": [ids[0]], "opens_here": True}]
    assert main(["sealing", "ls", artifact.uri]) == ExitCode.OK
    assert f"{ids[0]} (old)" in capsys.readouterr().out
    changed = told(capsys, "sealing", "rewrap", artifact.uri, "--seal", "new")
    assert changed["rewrapped"] == [{"version": artifact.uri, "before": [ids[0]], "keys": [ids[1]]}]
    (home / "keys" / "new.key").chmod(0o644)
    assert main(["sealing", "ls", artifact.uri]) == ExitCode.CONFLICT
    assert "chmod 600" in capsys.readouterr().err
    (home / "keys" / "new.key").unlink()
    assert main(["sealing", "rewrap", artifact.uri, "--seal", "old"]) == ExitCode.REFUSED
    assert "no key of this machine opens it" in capsys.readouterr().err
    (Path(artifact.uri) / KEYS).write_bytes(before)
    assert told(capsys, "sealing", "rewrap", artifact.uri, "--seal", "new", "--keep")["rewrapped"] == [
        {"version": artifact.uri, "before": [ids[0]], "keys": ids}
    ]


def test_one_that_is_damaged_hides_no_other_and_keeps_none_from_being_sealed_anew(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [told(capsys, "sealing", "new", name)["key"] for name in ("old", "new")]
    holder = sealing_commands.holder_of("old", folder=home / "keys")
    plain = Path(mlp_artifact(tmp_path / "plain")[0])
    sealed = [sealed_copy(plain, tmp_path / str(number), holder) for number in range(3)]
    (Path(sealed[0].uri) / KEYS).write_text("{}")
    (Path(sealed[2].uri) / "manifest.json").unlink()
    signature = open_folder(plain).manifest.signature.model_dump(mode="json")
    about = {"model": "digits", "engine": "onnx", "signature": signature, "created_s": 1.0}
    versions = [{**about, "version": n, "artifact_uri": one.uri, "digest": one.digest} for n, one in enumerate(sealed, 1)]
    nothing = dict.fromkeys(("stable", "candidate", "serving", "plan", "rollout"))
    view = ModelView.model_validate({**nothing, "name": "digits", "apps": [], "versions": versions})
    monkeypatch.setattr(sealing_commands.ControlClient, "model", lambda _client, _model: view)
    monkeypatch.setenv("HEADRACE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("headrace.by_hand.has_service", lambda _: False)  # which would have to record it
    first, second, third = told(capsys, "sealing", "ls", "digits")["versions"]  # type: ignore[misc]
    assert (second["keys"], second["opens_here"]) == ([ids[0]], True)
    assert f"bad {KEYS}" in first["wrong"]
    assert "manifest.json" in third["wrong"]
    assert main(["sealing", "rewrap", "digits", "--seal", "new", "--json"]) != ExitCode.OK
    said = capsys.readouterr()
    assert [one["version"] for one in json.loads(said.out)["rewrapped"]] == ["2"]
    assert f"bad {KEYS}" in said.err
    assert "3 is sealed for whom it was" in said.err


def test_commands_on_a_sealed_version_open_it_or_say_why_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "sealing", "new", "prod")
    holder = sealing_commands.holder_of("prod", folder=home / "keys")
    plain = mlp_artifact(tmp_path / "plain", profiled=100)
    sealed = sealed_copy(Path(plain[0]), tmp_path / "sealed", holder)
    about = {"model": "digits", "engine": "onnx", "signature": plain[2].signature.model_dump(mode="json"), "created_s": 1.0}
    view = ModelView.model_validate(
        {
            **dict.fromkeys(("stable", "candidate", "serving", "plan", "rollout")),
            "name": "digits",
            "apps": [],
            "versions": [
                {**about, "version": number, "artifact_uri": uri, "digest": digest}
                for number, uri, digest in ((1, *plain[:2]), (2, sealed.uri, sealed.digest))
            ],
        }
    )
    for module in (model_commands, sealing_commands):
        monkeypatch.setattr(module.ControlClient, "model", lambda _client, _model: view)
    acts: list[TellAct] = []
    monkeypatch.setattr(ControlClient, "call", lambda _client, _command, told: acts.append(told) or Nothing())
    monkeypatch.setenv("HEADRACE_URL", "http://127.0.0.1:9")
    assert told(capsys, "model", "show", "digits", "2")["sealed"] is True
    assert told(capsys, "model", "profile", "digits", "2")["version"] == 2
    assert told(capsys, "model", "show", "digits", "2", "--html", str(tmp_path / "page.html"))["sealed"] is True
    assert (tmp_path / "page.html").read_text() == PAGE_TEXT
    assert main(["model", "show", "digits", "1", "--html", str(tmp_path / "none.html")]) == ExitCode.NOT_FOUND
    assert "has no page" in capsys.readouterr().err
    assert told(capsys, "model", "diff", "digits", "1", "2")["different"] == {"sealed": [False, True]}
    assert [one["sealed"] for one in told(capsys, "sealing", "ls", "digits")["versions"]] == [False, True]  # type: ignore[attr-defined]
    monkeypatch.setenv(VARIABLE, "env:NOBODYS")
    for words in (["show", "digits", "2"], ["profile", "digits", "2"], ["diff", "digits", "1", "2"]):
        assert main(["model", *words]) == ExitCode.REFUSED
        assert "no key of this machine opens it" in capsys.readouterr().err
    assert main(["model", "push", "digits:2", "--to", "models:/digits"]) == ExitCode.BAD_INPUT
    assert "MLflow would keep it in clear" in capsys.readouterr().err
    assert [(one.act.value, one.stage.value, one.versions) for one in acts] == [
        ("model.show", "begun", (2,)),
        ("model.show", "done", (2,)),
        ("model.push", "begun", (2,)),
        ("model.push", "failed", (2,)),
    ]


def test_keys_of_services_are_listed_without_asking_them(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "vault:transit/prod,aws-kms:alias/prod,file:/nowhere")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    assert told(capsys, "sealing", "ls") == {
        "keys": [
            {"key": "aws-kms:alias/prod", "where": "aws-kms:alias/prod", "opens": True},
            {"key": "vault:transit/prod", "where": "vault:transit/prod at http://127.0.0.1:9", "opens": True},
        ]
    }
