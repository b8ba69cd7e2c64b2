"""`headrace build`: what is registered, by which place, and what is said where other machines could not read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import headrace.cli.build as cli
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from headrace.local.home import Home
from headrace.local.run_state import RAYLET, Phase, RunState, save_run, started
from tests.support.models import SIGNATURE

SHARED = "s3://models/artifacts"


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a controller was asked to register; nothing is built."""
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        told = {name: asked[-1][name] for name in ("model", "artifact_uri", "digest", "engine", "signature")}
        return httpx.Response(200, json={**told, "version": 1, "created_s": 1.0})

    def built(*_: object, root: str, **__: object) -> SimpleNamespace:
        artifact = SimpleNamespace(
            uri=f"{root}/churn/d", digest="d" * 64, manifest=SimpleNamespace(engine="onnx", signature=SIGNATURE)
        )
        report = SimpleNamespace(model_dump=lambda **_: {}, built_quality=None)
        return SimpleNamespace(artifact=artifact, report=report, broken=())

    def client() -> ControlClient:
        return ControlClient("http://headrace", transport=httpx.MockTransport(answer))

    for name in ("HEADRACE_URL", "HEADRACE_SIGNING", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "build", built)
    monkeypatch.setattr(cli, "page", lambda _: "")
    monkeypatch.setattr(cli.ControlClient, "from_environment", staticmethod(client))
    (tmp_path / "churn.yaml").write_text("kind: Model\nname: churn\nbuild: {source: {onnx: none.onnx}}")
    return asked


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (("--output", SHARED), []),
        (("--output", SHARED, "--register"), [f"{SHARED}/churn/d"]),
    ],
    ids=["packaged alone", "registered too"],
)
def test_a_version_in_an_object_store_is_registered_where_that_is_asked_for(
    words: tuple[str, ...],
    places: list[str],
    registered: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", str(tmp_path / "churn.yaml"), "--json", *words]) == ExitCode.OK
    told = capsys.readouterr()
    assert [one["artifact_uri"] for one in registered] == places
    assert ("version" in json.loads(told.out)) is bool(places)
    assert "WARNING" not in told.err


def test_what_must_be_signed_is_not_registered_unsigned_from_elsewhere_either(
    registered: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "must_be_signed", lambda *_: True)
    assert main(["build", str(tmp_path / "churn.yaml"), "--output", SHARED, "--register"]) == ExitCode.BAD_INPUT
    assert "takes no version that is not signed" in capsys.readouterr().err
    assert registered == []


@pytest.mark.parametrize("owns_ray", [True, False], ids=["a Ray of its own", "a cluster that was joined"])
def test_a_path_that_other_machines_may_not_see_is_told_before_anything_is_built(
    owns_ray: bool, registered: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    home.make()
    process = started(RAYLET, os.getpid())
    save_run(home, RunState(run_id="r", phase=Phase.RUNNING, started_s=0.0, owns_ray=owns_ray, processes=(process,)))
    assert main(["build", str(tmp_path / "churn.yaml"), "--json"]) == ExitCode.OK
    said = capsys.readouterr().err
    assert (f"registered by {home.artifacts}, which every node" in said) is not owns_ray
    assert len(registered) == 1
