"""What a command does beside the controller stands in the audit: that it begins, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.access.callers import VISITOR, Caller, Role, grant_of
from cluster.commands.watch.by_hand import TOLD_MOST, USES, HandAct
from cluster.errors import OverQuota, Unauthenticated, Unreachable
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


def test_what_is_too_long_for_a_record_is_cut_and_ends_nothing(brain: Brain) -> None:
    arn = "aws-kms:" + "k" * 300
    with recorded(HandAct.REWRAP, lambda _: None, name="n" * 300, keys=[arn]) as act:
        act.came_to(keys=[arn] * 101, to="t" * 600)
    begun, done = told(brain, HandAct.REWRAP)
    assert (begun["name"], begun["keys"]) == ("n" * 200, [arn[:200]])
    assert (done["keys"], done["to"]) == ([arn[:200]] * 100, "t" * 500)


def test_an_end_that_can_not_be_told_hides_nothing(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with monkeypatch.context() as away, recorded(HandAct.PUSH, said.append, to="s3://me:secret@there/x"):
        away.setattr(brain.controller, "call", _raises)
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


def test_a_key_that_only_scores_tells_of_so_many_acts_a_minute() -> None:
    """Else whoever may score fills the audit, of which nothing goes away by itself."""
    brain = Brain()
    scores = Caller("key scores", (grant_of((Role.SCORE,), "digits"),))
    deploys = Caller("key ci", (grant_of((Role.DEPLOY,), "fraud"),))
    act = {"act": "signing.new", "stage": "begun", "name": "x"}
    for _ in range(TOLD_MOST):
        brain.controller.call("act.tell", act, scores)
    with pytest.raises(OverQuota, match="key scores has told of 60 acts"):
        brain.controller.call("act.tell", act, scores)
    for _ in range(2 * TOLD_MOST):
        brain.controller.call("act.tell", act, deploys)
    brain.clock.now_s += 60
    brain.controller.call("act.tell", act, scores)
    told_by = [one["actor"] for one in in_audit(brain, "signing.new")]
    assert (told_by.count("key scores"), told_by.count("key ci")) == (TOLD_MOST + 1, 2 * TOLD_MOST)


def test_who_is_nobody_records_nothing() -> None:
    brain = Brain()
    with pytest.raises(Unauthenticated):
        brain.controller.call("act.tell", {"act": "sealing.new", "stage": "done", "name": "x"}, VISITOR)
    assert in_audit(brain, "sealing.new") == []
