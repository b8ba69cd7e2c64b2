"""The main job, end to end: `make demo`, in a copy of the examples so that one that runs here is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


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


@pytest.mark.timeout(1200)
def test_the_demo_counts_everything_right_and_leaves_nothing_running(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))
    home = tmp_path / "examples" / "digits" / "out" / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.digits.demo"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = demo.communicate()
    except BaseException:
        demo.send_signal(signal.SIGINT)  # it tidies up
        demo.wait(timeout=120)
        raise
    assert demo.returncode == 0, printed[-6000:]
    assert "Every count is right." in printed
    left = _left_running(home)
    for process in left:
        process.kill()
    assert left == []
