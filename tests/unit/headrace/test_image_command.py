"""`headrace image build` and `push`: what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

import headrace.cli.images.image as cli
from cluster.commands.models import ModelView
from cluster.error_wire import to_wire
from cluster.errors import NotFound
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient


@pytest.fixture(autouse=True)
def _control(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that knows a model without versions."""
    nothing = dict.fromkeys(("stable", "candidate", "serving", "plan", "rollout"))
    view = ModelView.model_validate({**nothing, "name": "digits", "versions": [], "apps": []})

    def answer(request: httpx.Request) -> httpx.Response:
        model = json.loads(request.content)["model"]
        if model == "digits":
            return httpx.Response(200, text=view.model_dump_json())
        unknown = NotFound("no such model", where=model, remedy="`headrace models` lists them")
        return httpx.Response(404, json={"error": to_wire(unknown)})

    def client() -> ControlClient:
        return ControlClient("http://headrace", transport=httpx.MockTransport(answer))

    monkeypatch.setattr(cli.ControlClient, "from_environment", staticmethod(client))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--with", "nothing"], ExitCode.NOT_FOUND, "nothing: no such model"),
        (["--with", "digits"], ExitCode.NOT_FOUND, "no version"),
        (["--with", "digits:7"], ExitCode.NOT_FOUND, "no version 7"),
        (["--with", "digits:new"], ExitCode.BAD_INPUT, "is no version"),
        (["--base", "images:python"], ExitCode.BAD_INPUT, "names no place in an OCI layout"),
        (["--variant", "small"], 2, "small"),
    ],
)
def test_a_build_that_can_not_be_writes_nothing(
    words: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["image", "build", "--output", f"oci:{tmp_path}/out:v1", *words]) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [["oci:nowhere:v1", "127.0.0.1:9/x:1"], ["oci:nowhere", "127.0.0.1:9/x:1"], ["oci:nowhere:v1", "x"]]
)
def test_a_push_of_nothing_or_nowhere_is_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["image", "push", *words]) in (ExitCode.NOT_FOUND, ExitCode.BAD_INPUT)
    assert "try: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
