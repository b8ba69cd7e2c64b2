"""A process that is killed with counts that it has not told leaves a gap in the audit; one that ends has told all."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.audit.uses import UseReport
from tests.support.brain import Brain
from tests.support.telling_process import COUNTED
from tests.unit.audit.test_uses import recorded

WHERE = {"batch": "run r1 of batch nightly", "scorer": "gateway 7"}


def told(brain: Brain, kind: str, *, ends: bool) -> None:
    """Takes what a process tells until it has counted something, kills it, or lets it end."""
    command = [sys.executable, "-m", "tests.support.telling_process", kind, *(["--ends"] if ends else [])]
    began = False
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    with process:
        try:
            assert process.stdin is not None
            for line in process.stdout or ():
                if line.strip() == COUNTED:
                    assert began  # it is recorded that it is there before it counts anything
                    if not ends:
                        break
                    continue
                report = pickle.loads(base64.b64decode(line))  # noqa: S301 - our own process wrote it
                brain.controller.push(report)
                began |= isinstance(report, UseReport)
                process.stdin.write("\n")
                process.stdin.flush()
        finally:
            if not ends or not began:
                process.kill()
    assert began


@pytest.mark.parametrize("kind", ["batch", pytest.param("scorer", marks=pytest.mark.proof)])  # a scorer takes long to import
def test_a_killed_process_leaves_a_gap(kind: str) -> None:
    brain = Brain()
    brain.serve_first()
    told(brain, kind, ends=False)
    assert recorded(brain, "used") == []
    brain.tick(20, each_s=4)
    (gap,) = recorded(brain, "audit gap")
    assert gap["detail"]["process"].startswith(WHERE[kind])


@pytest.mark.proof
def test_a_run_that_ends_has_told_all() -> None:
    brain = Brain()
    brain.serve_first()
    told(brain, "batch", ends=True)
    (used,) = recorded(brain, "used")
    assert (used["actor"], used["detail"]["rows"], used["detail"]["process"]) == ("batch nightly", 4, WHERE["batch"])
    brain.tick(20, each_s=4)
    assert recorded(brain, "audit gap") == []
