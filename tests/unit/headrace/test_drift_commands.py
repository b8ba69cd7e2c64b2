"""`headrace drift` over a real controller: what a person reads, and what a script does."""

from __future__ import annotations

import json

import pytest

from headrace.cli.main import main
from tests.support.brain_client import ask_brain
from tests.support.watched import Watched


def test_a_person_reads_which_features_changed_how_far_and_since_when(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    watched = Watched()
    ask_brain(watched.brain, monkeypatch)
    assert main(["drift", "status"]) == 0
    assert "version 1: nothing was heard of its rows" in capsys.readouterr().out
    watched.tell(0.0, 0.0, 2.0, times=3)
    assert main(["drift", "status", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: 1 alarm"
    (alarm,) = [line for line in lines if line.startswith("1 ")]
    assert alarm.split()[:3] == ["1", "input", "x[2]"]
    assert "ago" in alarm
    assert "█" in alarm
    assert any("3,000 rows looked at" in line and "a profile of 5,000 rows" in line for line in lines)


def test_a_script_reads_them_and_clears_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    ask_brain(watched.brain, monkeypatch)
    watched.tell(2.0, 0.0, 2.0, times=3)
    assert main(["drift", "status", "digits", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert [(alarm["size"]["side"], alarm["size"]["feature"]) for alarm in model["alarms"]] == [
        ("output", "x[0]"),
        ("input", "x[2]"),
    ]
    assert main(["drift", "clear", "digits", "--feature", "x[2]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cleared": 1}
    assert main(["drift", "clear", "digits", "--feature", "x[2]"]) == 3
    assert "x[0] of version 1" in capsys.readouterr().err.replace("\n", " ")


def test_metrics_and_history_tell_of_drift(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    ask_brain(watched.brain, monkeypatch)
    watched.tell(2.0, 0.0, 0.0, times=3)
    assert main(["metrics", "--of", "drift"]) == 0
    page = capsys.readouterr().out
    assert 'headrace_drift_alarms{model="digits",version="1"} 1.0' in page
    size = float(page.split('headrace_drift_size{model="digits",version="1"} ')[1].split()[0])
    assert 0.2 < size < 1
    figures = [line["figure"] for line in watched.brain.call("metrics.history")["lines"]]
    assert "drift_size" in figures
    (shown,) = watched.brain.call("status")["models"]
    assert shown["drift_alarms"] == 1
