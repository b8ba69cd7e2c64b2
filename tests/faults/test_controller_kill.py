"""The controller is killed with SIGKILL between observe, decide, persist, publish and act, in every state of a rollout.

Over a real SQLite file, each life a process; see tests.support.controller_life, which also looks at every
table that is published.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from cluster.controller import Point

BEGIN = [[1, "started"], [1, "warming"], [1, "promoted"], [2, "started"], [2, "warming"]]
ENDS = {
    "good": ("promoted", ["shadow", "canary", "paused", "canary", "canary", "promoted"]),
    "bad": ("rolled_back", ["shadow", "canary", "rolled_back"]),
    "broken": ("rolled_back", ["rolled_back"]),
    "replaced": ("superseded", ["shadow", "canary", "superseded"]),
}
# What follows in the rollout of version 3, which takes the place of that of version 2 with the plan `instant`.
REPLACED = ["started", "warming", "canary", "promoted"]
STATES = ["before", "warming 0", "shadow 1", "canary 2", "paused 2", "canary 3", "promoted 3", "rolled_back 2", "rolled_back 0"]
STATES += ["superseded, then pending", "superseded, then warming", "superseded, then promoted"]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("lives")
    command = [sys.executable, "-m", "tests.support.controller_life", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_every_point_of_every_state_was_met(lives: list[dict[str, Any]]) -> None:
    met = {life["at"] for life in lives}
    for state in STATES:
        for point in (Point.OBSERVED, Point.DECIDED, Point.PERSISTED, Point.PUBLISHED, Point.ACTED):
            assert f"{state}, {point}" in met
    # Deploying the candidate, and retiring what is not stable any more.
    assert {f"{state}, {Point.BEFORE_ACTION}" for state in ("before", "promoted 3", "rolled_back 2")} <= met


def test_it_dies_of_the_kill_and_the_next_one_ends_as_an_undisturbed_one(lives: list[dict[str, Any]]) -> None:
    for life in lives:
        state, transitions = ENDS[life["scenario"]]
        stable = {"promoted": 2, "superseded": 3}.get(state, 1)
        after = [[3, event] for event in REPLACED] if state == "superseded" else []
        where = f"{life['scenario']}, killed at {life['at'] or 'no point'}"
        assert life["died"] == (-signal.SIGKILL if life["at"] else 0), where
        assert life["end"]["transitions"] == [*BEGIN, *([2, event] for event in transitions), *after], where
        assert life["end"]["rollouts"][1][:4] == [2, 1, 2, state], where
        assert life["end"]["stable"] == stable, where
        assert life["end"]["apps"] == {f"digits--v{stable}": "ready"}, where
        assert life["end"]["evidence"] == 0, where
