"""The command line: exit codes, one message a failure, help that is quick."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table

from cluster import errors
from headrace.cli.exits import ExitCode, code_of
from headrace.cli.main import ENTRIES, command_line, main
from headrace.cli.screens.output import answers, notes

HEAVY = ("ray", "torch", "pyarrow", "onnxruntime", "kafka", "sqlalchemy")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    for name in ("HEADRACE_URL", "HEADRACE_DEBUG", "RAY_ADDRESS", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadInput, ExitCode.BAD_INPUT),
        (errors.NotFound, ExitCode.NOT_FOUND),
        (errors.Conflict, ExitCode.CONFLICT),
        (errors.Fenced, ExitCode.CONFLICT),
        (errors.Unreachable, ExitCode.UNAVAILABLE),
        (errors.NoCapacity, ExitCode.UNAVAILABLE),
        (errors.BadArtifact, ExitCode.FAILED),
        (errors.EngineFailure, ExitCode.FAILED),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error: type[errors.HeadraceError], code: ExitCode) -> None:
    assert code_of(error("no")) is code


def test_nothing_running_is_one_message_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == ExitCode.UNAVAILABLE
    told = capsys.readouterr().err
    assert "nothing is running" in told
    assert "headrace up" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["key", "create", "fraud", "--expires", "0s"], "lasts_s"),
        (["key", "create", " fraud"], "name"),
        (["key", "create", "fraud", "--role", "score", "--model", "a b"], "models.0"),
        (["key", "rotate", "fraud", "--expires", "999999d"], "lasts_s"),
    ],
)
def test_what_makes_no_request_is_bad_input_by_its_field(
    words: list[str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == ExitCode.BAD_INPUT
    told = capsys.readouterr().err
    assert f"error: {where}: " in told
    assert "--help" in told


def test_with_json_the_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == ExitCode.UNAVAILABLE
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "Unreachable"


START = ["rollout", "start", "digits"]


@pytest.mark.parametrize(
    "words",
    [
        ["statsu"],
        ["scale", "digits", "many"],
        ["rollout", "start"],
        [*START, "--plan", "overnight"],
        [*START, "--plan", "instant", "--file", "model.yaml"],
        ["up", "--http-port", "99999"],
        ["up", "--host", "::1"],
        ["up", "--host", ""],
        ["up", "--tls-cert", "door.pem"],
        ["up", "--tls-key", "door.key"],
        ["up", "--tls-cert", "absent.pem", "--tls-key", "absent.key"],
        ["up", "--client-ca", "ca.pem"],
        ["up", "--tls-cert", "door.pem", "--tls-key", "door.key", "--client-certs", "required"],
        ["up", "--tls-cert", "door.pem", "--tls-key", "door.key", "--client-ca", "ca.pem", "--client-certs", "never"],
    ],
)
def test_bad_usage_is_2(words: list[str]) -> None:
    assert main(words) == ExitCode.BAD_INPUT


def test_a_missing_project_file_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "-f", "absent.yaml"]) == ExitCode.NOT_FOUND
    assert "absent.yaml: there is no such file" in capsys.readouterr().err


def test_labels_come_from_a_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "label", "digits", str(tmp_path / "labels.jsonl")]) == ExitCode.NOT_FOUND
    assert "name a file of labels" in capsys.readouterr().err
    (tmp_path / "labels.jsonl").write_text('{"key": "1/2/3/in/0/4", "label": 3}')
    assert main(["rollout", "label", "digits", str(tmp_path / "labels.jsonl")]) == ExitCode.UNAVAILABLE


def test_a_wrong_project_file_is_2_with_line_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("kind: Model\nname: digits\nservng: {}\n")
    assert main(["apply", "--check", "-f", str(file)]) == ExitCode.BAD_INPUT
    told = capsys.readouterr().err
    assert "model.yaml:3: servng: unknown field" in told
    assert "did you mean 'serving'?" in told


def test_a_correct_file_can_be_checked_with_nothing_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("kind: Model\nname: digits\n")
    assert main(["apply", "--check", "-f", str(file)]) == ExitCode.OK
    assert "model digits: correct" in capsys.readouterr().out


def test_a_port_in_use_is_named_with_its_option_and_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["up", "--http-port", str(port)]) == ExitCode.CONFLICT
    told = capsys.readouterr().err
    assert f"port {port} is in use" in told
    assert "--http-port" in told
    assert not (tmp_path / "home" / "run.json").exists()


@pytest.mark.parametrize("words", [["up"], ["down"]])
def test_a_home_that_cant_be_made_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "file" / "home"))
    assert main(words) == ExitCode.BAD_INPUT
    assert "set HEADRACE_HOME to a folder of your own" in capsys.readouterr().err


def test_a_home_of_nobody_is_a_name_like_any_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADRACE_HOME", "~nobody-of-that-name/home")
    assert main(["status"]) == ExitCode.UNAVAILABLE
    assert "nothing is running" in capsys.readouterr().err


def test_down_with_nothing_running_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == ExitCode.OK
    assert "nothing was running" in capsys.readouterr().out


def test_what_is_told_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    told = "lag of [topic-0] at [/data/x] is :100:"
    table = Table("message")
    table.add_row(told)
    answers().print(told, table)
    notes().print(told)
    printed = capsys.readouterr()
    assert (printed.out.count(told), printed.err.count(told)) == (2, 1)


def test_a_user_without_a_name_may_roll_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 999_999_999)
    assert main(["rollout", "abort", "digits"]) == ExitCode.UNAVAILABLE  # nothing runs, but it got that far
    assert main(START) == ExitCode.UNAVAILABLE


@pytest.mark.parametrize("word", sorted(ENTRIES))
def test_every_command_has_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--help"]) == ExitCode.OK
    assert f"headrace {word}" in capsys.readouterr().out


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, by its words."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, inner in (below or {}).items():
        yield from leaves(inner, (*path, name))


def test_every_command_shows_an_example_of_itself_and_speaks_json() -> None:
    found = [leaf for word in ENTRIES for leaf in leaves(typer.main.get_command(command_line([word])))]
    assert len(found) > 30
    for words, command in found:
        assert f"Example: `headrace {' '.join(words)}" in command.help, words
        assert "--json" in [option for parameter in command.params for option in parameter.opts], words


@pytest.mark.parametrize("words", ["--help", "--version", "status --help", "rollout --help", "apply --help", "up --help"])
def test_starting_imports_nothing_heavy(words: str) -> None:
    code = f"""
import sys
from headrace.cli.main import main
code = main({words.split()!r})
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_status_goes_without_what_it_shows_nothing_of() -> None:
    """It is asked again and again: numpy, YAML and cryptography took half of its time."""
    code = """
import sys
from headrace.cli import local
from headrace.cli.screens.status import shown
from headrace.local.status import look
heavy = [name for name in ("numpy", "yaml", "cryptography", "headrace.client") if name in sys.modules]
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
