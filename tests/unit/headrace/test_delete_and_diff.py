"""`headrace delete`, `diff` and `apply --prune`, through the control client to a real controller over fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain

PROJECT = "kind: Project\nname: shop\n"
MODEL = "kind: Model\nname: digits\nserving: {threads: 1}\n"
STREAM = """kind: Stream
name: scores
model: digits
brokers: kafka:9092
input: {topic: in, format: json}
output: {topic: out}
dead_letters: {topic: dead}
"""
BATCH = """kind: Batch
name: nightly
model: digits
input: {path: in, columns: {input: x}}
output: {path: out, columns: {y: output}}
"""


@pytest.fixture
def brain(monkeypatch: pytest.MonkeyPatch) -> Brain:
    """Its controller looks at the world every five seconds, and after each command."""
    brain = Brain()
    ask_brain(brain, monkeypatch, each_s=5)
    return brain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("project", PROJECT), ("model", MODEL), ("stream", STREAM)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def served(brain: Brain, folder: Path, run: Run) -> Brain:
    """A model that serves, and a stream that scores with it, of the project `shop`."""
    brain.build(1)
    code, out, _ = run("apply", "-f", folder)
    assert (code, out) == (ExitCode.OK, "model digits: created\nstream scores: created\n")
    assert set(brain.streams.running) == {"scores"}
    return brain


@pytest.mark.parametrize(
    ("stream", "model"), [(("stream", "scores"), ("model", "digits")), (("stream/scores",), ("model/digits",))]
)
def test_a_stream_then_its_model_are_gone_when_it_returns(
    served: Brain, run: Run, stream: tuple[str, ...], model: tuple[str, ...]
) -> None:
    code, _, err = run("delete", *model)
    assert code == ExitCode.CONFLICT
    assert "model digits: stream scores scores with it" in err
    assert "try: first `headrace delete stream scores`, or apply it with another model" in err
    assert run("delete", *stream)[0] == ExitCode.OK
    assert (served.streams.running, served.store.load().feeds) == ({}, {})
    assert run("delete", *model)[0] == ExitCode.OK
    assert (served.fleet.state(), served.store.load().models) == ({}, {})
    code, _, err = run("delete", *model)
    assert code == ExitCode.NOT_FOUND
    assert "there is no model 'digits'" in err
    actors = {event.event: event.actor for event in served.store.audit("digits")}
    assert (actors["feed.delete"], actors["model.delete"], actors["deleted"]) == ("ann", "ann", "controller")


def test_it_need_not_wait(served: Brain, run: Run) -> None:
    code, out, _ = run("delete", "stream", "scores", "--no-wait", "--json")
    assert (code, json.loads(out)) == (ExitCode.OK, {"kind": "stream", "name": "scores", "gone": False})
    code, _, err = run("delete", "stream", "scores", "--json")
    assert code in (ExitCode.OK, ExitCode.NOT_FOUND), err


def test_what_does_not_go_is_told_after_its_time(served: Brain, run: Run) -> None:
    served.streams.away = True
    code, _, err = run("delete", "stream", "scores", "--timeout", "1")
    assert code == ExitCode.UNAVAILABLE
    assert "stream scores: not gone after 1 s: " in err
    assert "headrace status --watch" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["modle", "digits"], "did you mean 'model'?"),
        (["digits"], "known here: model, stream, batch"),
        (["model"], "which model was not said"),
        (["stream/"], "`headrace delete stream NAME`"),
        (["stream", "scores", "--artifacts"], "a stream has no artifacts"),
    ],
)
def test_what_names_nothing_is_bad_usage(run: Run, words: list[str], told: str) -> None:
    code, _, err = run("delete", *words)
    assert code == ExitCode.BAD_INPUT
    assert told in err


def test_diff_says_each_field_and_ends_with_1_where_something_would_change(served: Brain, folder: Path, run: Run) -> None:
    assert run("diff", "-f", folder) == (ExitCode.OK, "", "")
    (folder / "model.yaml").write_text(MODEL.replace("threads: 1", "threads: 4"))
    (folder / "batch.yaml").write_text(BATCH)
    (folder / "stream.yaml").write_text(STREAM.replace("topic: in,", "topics: [a, b],"))
    before = served.store.load()
    code, out, _ = run("diff", "-f", folder)
    assert code == ExitCode.FAILED
    lines = out.splitlines()
    assert lines[:2] == ["model digits: would be updated", "  serving.threads: 1 -> 4"]
    assert "batch nightly: would be created" in lines
    assert "stream scores: would be updated" in lines
    assert lines[-2:] == ['  input.topic: "in" -> ""', '  input.topics: [] -> ["a","b"]']
    assert served.store.load() == before
    code, out, _ = run("diff", "-f", folder, "--json")
    assert code == ExitCode.FAILED
    change = json.loads(out)["changes"][0]
    assert (change["action"], change["fields"]) == ("updated", [{"field": "serving.threads", "before": 1, "after": 4}])


def test_a_dry_run_says_the_same_and_is_no_failure(served: Brain, folder: Path, run: Run) -> None:
    (folder / "model.yaml").write_text(MODEL.replace("threads: 1", "threads: 4"))
    code, out, _ = run("apply", "-f", folder, "--dry-run")
    assert code == ExitCode.OK
    assert out == "model digits: would be updated\n  serving.threads: 1 -> 4\nstream scores: unchanged\n"
    assert run("diff", "-f", folder)[0] == ExitCode.FAILED  # still: nothing was changed


def test_prune_removes_what_left_the_folder_and_waits_for_it(served: Brain, folder: Path, run: Run) -> None:
    (folder / "stream.yaml").unlink()
    assert run("diff", "-f", folder) == (ExitCode.OK, "", "")
    code, out, _ = run("diff", "-f", folder, "--prune")
    assert (code, out) == (ExitCode.FAILED, "stream scores: would be removed\n")
    code, out, _ = run("apply", "-f", folder, "--prune")
    assert (code, out) == (ExitCode.OK, "model digits: unchanged\nstream scores: removed\n")
    assert (served.streams.running, served.store.load().feeds) == ({}, {})
    (folder / "model.yaml").unlink()
    code, out, _ = run("apply", "-f", folder, "--prune")
    assert (code, out) == (ExitCode.OK, "model digits: removed\n")
    assert (served.fleet.state(), served.store.load().models) == ({}, {})


def test_without_a_project_nothing_can_be_pruned(served: Brain, folder: Path, run: Run) -> None:
    (folder / "project.yaml").unlink()
    code, _, err = run("apply", "-f", folder, "--prune")
    assert code == ExitCode.BAD_INPUT
    assert "no project is named" in err
    assert "add a document `kind: Project`" in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Project\nname: bank\n", "two projects, 'bank' and 'shop'"),
        ("kind: Project\nname: My Bank\n", "'My Bank' can't name a project"),
        ("kind: Project\nname: bank\nowner: me\n", "a.yaml:3: owner: unknown field"),
    ],
)
def test_a_folder_is_one_project(folder: Path, run: Run, text: str, told: str) -> None:
    (folder / "a.yaml").write_text(text)
    code, _, err = run("apply", "-f", folder, "--check")
    assert code == ExitCode.BAD_INPUT
    assert told in err
