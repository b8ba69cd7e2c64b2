"""`headrace model rm`: whose files go with a version, and whose stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace.cli.model as cli
from cluster.commands.models import ModelView
from cluster.commands.status import StatusView
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from tests.support.models import mlp_artifact


@pytest.mark.parametrize("shared", [True, False])
def test_files_that_another_version_has_too_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared: bool
) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path / "artifacts")
    signature = manifest.signature.model_dump(mode="json")
    about = {"artifact_uri": uri, "engine": "onnx", "signature": signature, "created_s": 1.0}
    nothing = dict.fromkeys(("stable", "candidate", "serving", "plan", "rollout"))

    def view(name: str, version: int, digest: str) -> ModelView:
        versions = [{"model": name, "version": version, "digest": digest, **about}]
        return ModelView.model_validate({**nothing, "name": name, "versions": versions, "apps": []})

    digits, other = view("digits", 3, digest), view("other", 1, digest if shared else "0" * 64)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.removeprefix("/control/"))
        told: dict[str, Any] = {
            "model.show": digits,
            "status": StatusView(table=1, tick_s=1.0, models=(digits, other), feeds=()),
        }
        return httpx.Response(200, text=told[asked[-1]].model_dump_json() if asked[-1] in told else "{}")

    client = lambda: ControlClient("http://headrace", transport=httpx.MockTransport(answer))  # noqa: E731
    monkeypatch.setattr(cli.ControlClient, "from_environment", staticmethod(client))
    assert main(["model", "rm", "digits", "3", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["removed"] == (None if shared else uri)
    assert Path(uri.removeprefix("file://")).exists() is shared
    assert asked[-1] == "version.remove"
    if shared:
        assert main(["model", "rm", "digits", "3"]) == ExitCode.OK
        assert "stays: other version 1 has the same files" in capsys.readouterr().err
