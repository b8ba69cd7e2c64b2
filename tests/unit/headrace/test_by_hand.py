"""What a command does beside the controller stands in the audit: that it begins, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.access.callers import VISITOR
from cluster.commands.watch.by_hand import USES, HandAct
from cluster.errors import Unauthenticated, Unreachable
from deployments.artifacts.manifest import KEYS
from deployments.keys.references import holder_of
from deployments.keys.ring import VARIABLE
from headrace.by_hand import NOT_TOLD, recorded
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from headrace.local.home import read_settings
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.models import mlp_artifact
from tests.support.sealed import sealed_copy
from tests.unit.audit.test_uses import recorded as in_audit


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HEADRACE_URL", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "home"


@pytest.fixture
def brain(home: Path, monkeypatch: pytest.MonkeyPatch) -> Brain:
    brain = Brain()
    ask_brain(brain, monkeypatch)
    monkeypatch.setenv("HEADRACE_URL", "http://gateway")
    return brain


def told(brain: Brain, act: HandAct) -> list[dict[str, Any]]:
    found = in_audit(brain, act.value)
    assert {one["actor"] for one in found} <= {"ann"}
    return [one["detail"] for one in found]


def test_keys_that_are_made_and_versions_that_are_rewrapped_are_told(home: Path, brain: Brain, tmp_path: Path) -> None:
    for name in ("old", "new"):
        assert main(["sealing", "new", name]) == ExitCode.OK
    begun, done, *_ = told(brain, HandAct.SEALING_KEY)
    assert (begun["stage"], done["stage"], done["name"], begun["keys"]) == ("begun", "done", "old", done["keys"])
    assert main(["signing", "new", "release"]) == ExitCode.OK
    assert [one["stage"] for one in told(brain, HandAct.SIGNING_KEY)] == ["begun", "done"]
    artifact = sealed_copy(Path(mlp_artifact(tmp_path / "plain")[0]), tmp_path / "sealed", holder_of("old", folder=home / "keys"))
    assert main(["sealing", "rewrap", artifact.uri, "--seal", "new"]) == ExitCode.OK
    new = holder_of("new", folder=home / "keys").key_id
    assert [(one["stage"], one["name"], one["keys"]) for one in told(brain, HandAct.REWRAP)] == [
        ("begun", "digits", [new]),
        ("done", "digits", [new]),
    ]
    (home / "keys" / "new.key").unlink()
    assert main(["sealing", "rewrap", artifact.uri, "--seal", "old"]) == ExitCode.REFUSED
    failed = told(brain, HandAct.REWRAP)[-1]
    assert (failed["stage"], failed["reason"]) == ("failed", "Forbidden")


def test_what_can_not_be_recorded_is_not_done(
    home: Path, brain: Brain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sealing", "new", "old"]) == ExitCode.OK
    artifact = sealed_copy(Path(mlp_artifact(tmp_path / "plain")[0]), tmp_path / "sealed", holder_of("old", folder=home / "keys"))
    before = (Path(artifact.uri) / KEYS).read_bytes()

    def away(*_: Any) -> ControlClient:
        raise Unreachable("the store's disk is full: nothing can be recorded in the audit, so nothing is changed")

    monkeypatch.setattr(ControlClient, "from_environment", staticmethod(away))
    assert main(["sealing", "new", "next"]) != ExitCode.OK
    assert "nothing can be recorded" in capsys.readouterr().err
    assert sorted(file.name for file in (home / "keys").iterdir()) == ["old.key", "old.pub"]
    assert main(["sealing", "rewrap", artifact.uri, "--seal", "old"]) != ExitCode.OK
    assert (Path(artifact.uri) / KEYS).read_bytes() == before
    assert main(["signing", "new", "release"]) != ExitCode.OK
    assert not (home / "signing").exists()
    said: list[str] = []
    for act in USES:  # these go on
        with recorded(act, said.append):
            pass
    assert len(said) == len(USES)
    assert "does not stand in the audit" in said[0]
    assert told(brain, HandAct.REWRAP) == []


def test_an_end_that_can_not_be_told_hides_nothing(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with recorded(HandAct.PUSH, said.append, to="s3://me:secret@there/x"):
        monkeypatch.setattr(brain, "call", _raises)
    assert [one["stage"] for one in told(brain, HandAct.PUSH)] == ["begun"]
    assert told(brain, HandAct.PUSH)[0]["to"] == "s3://me:***@there/x"
    assert "not how it ended" in said[0]


def _raises(*_: Any, **__: Any) -> dict[str, Any]:
    raise Unreachable("it is away")


def test_without_a_service_it_is_said_that_nothing_is_recorded(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signing", "new", "release"]) == ExitCode.OK
    assert NOT_TOLD.split(":")[0] in capsys.readouterr().err
    assert (home / "signing" / "release.key").exists()
    assert not read_settings().home.run_file.exists()


def test_who_is_nobody_records_nothing() -> None:
    brain = Brain()
    with pytest.raises(Unauthenticated):
        brain.controller.call("act.tell", {"act": "sealing.new", "stage": "done", "name": "x"}, VISITOR)
    assert in_audit(brain, "sealing.new") == []
