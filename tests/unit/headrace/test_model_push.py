"""`headrace model push` and `pull`: what they ask for before they ask anyone, and a version's way by a registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace.cli.images.versions as pulls
import headrace.cli.model as pushes
from cluster.commands.models import ModelView
from cluster.commands.versions import VersionView
from deployments.artifacts.manifest import verify
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from tests.support.models import mlp_artifact
from tests.support.registries import SmallRegistry


@pytest.mark.parametrize("to", ["churn", "models:/", "models:/churn/3", "models:/churn@champion"])
def test_it_takes_the_name_of_a_registered_model_alone(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "push", "churn", "3", "--to", to]) == ExitCode.BAD_INPUT
    assert "say --to models:/NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["churn"], "say where it goes"),
        (["churn", "3"], "say where it goes"),
        (["churn:new", "127.0.0.1:1/churn"], "is no version"),
        (["churn:2", "3", "--to", "models:/churn"], "names two versions"),
        (["churn:2", "nowhere"], "names nothing in a registry"),
    ],
)
def test_what_makes_no_sense_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "push", *words]) == ExitCode.BAD_INPUT
    assert told in capsys.readouterr().err


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A controller with version 3 of digits; what it is asked to register, and calls version 4."""
    uri, digest, manifest = mlp_artifact(tmp_path / "artifacts")
    version = {
        "model": "digits",
        "version": 3,
        "artifact_uri": uri,
        "digest": digest,
        "engine": "onnx",
        "signature": manifest.signature.model_dump(mode="json"),
        "created_s": 1.0,
    }
    nothing = dict.fromkeys(("stable", "candidate", "serving", "plan", "rollout"))
    view = ModelView.model_validate({**nothing, "name": "digits", "versions": [version], "apps": []})
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        command, body = request.url.path.removeprefix("/control/"), json.loads(request.content)
        if command == "version.register":
            asked.append(body)
            told = VersionView.model_validate({**version, "artifact_uri": body["artifact_uri"], "version": 4})
            return httpx.Response(200, text=told.model_dump_json())
        assert command == "model.show"
        return httpx.Response(200, text=view.model_dump_json())

    def client() -> ControlClient:
        return ControlClient("http://headrace", transport=httpx.MockTransport(answer))

    for module in (pulls, pushes):
        monkeypatch.setattr(module.ControlClient, "from_environment", staticmethod(client))
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_ARTIFACT_CACHE", str(tmp_path / "cache"))
    return asked


def test_a_version_goes_by_a_registry_to_another_controller(
    registered: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SmallRegistry().serving() as registry:
        assert main(["model", "push", "digits", f"{registry.host}/team/digits", "--json"]) == ExitCode.OK
        pushed = json.loads(capsys.readouterr().out)
        assert pushed["tag"] == f"{registry.host}/team/digits:3"
        assert main(["model", "pull", pushed["tag"], "--json"]) == ExitCode.OK
        pulled = json.loads(capsys.readouterr().out)
        assert (pulled["model"], pulled["version"], pulled["artifact_uri"]) == ("digits", 4, pushed["artifact_uri"])
        assert [one["artifact_uri"] for one in registered] == [pushed["artifact_uri"]]
        verify(tmp_path / "cache" / pulled["digest"], pulled["digest"])
        assert main(["model", "pull", pushed["tag"], "--to", str(tmp_path / "files"), "--json"]) == ExitCode.OK
        verify(Path(json.loads(capsys.readouterr().out)["folder"]), pulled["digest"])
    assert not list((tmp_path / "home").glob(".push-*"))
