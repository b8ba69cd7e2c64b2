"""The main job, end to end: `make demo`, in a copy of the examples so that one that runs here is left alone."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.support.examples import run_example


def _left_running(home: Path) -> list[psutil.Process]:
    """The processes that work on that home: by their environment, or by their command line."""
    left = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("HEADRACE_HOME", "")]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(str(home) in word for word in words):
            left.append(process)
    return left


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_the_demo_counts_everything_right_and_leaves_nothing_running(tmp_path: Path) -> None:
    printed = run_example("digits", tmp_path)
    assert "Every count is right." in printed
    left = _left_running(tmp_path / "examples" / "digits" / "out" / "home")
    for process in left:
        process.kill()
    assert left == []
