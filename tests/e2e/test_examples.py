"""Each example's one command: build, HTTP, stream and batch give the model's own answers. In a copy of the examples."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["credit", "tumours"])
def test_an_example_answers_alike_on_all_three_ways(tmp_path: Path, name: str) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))
    environment = {word: value for word, value in os.environ.items() if not word.startswith(("HEADRACE_", "RAY_"))}
    demo = subprocess.Popen(
        [sys.executable, "-m", f"examples.{name}.demo"],
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
    assert "All three ways answer alike." in printed
    for way in ("HTTP", "stream", "batch"):
        assert f"{way}: " in printed
