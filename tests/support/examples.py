"""An example's one command, run in a copy of the examples, so that one that runs here is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, folder: Path) -> str:
    """What `python -m examples.NAME.demo` prints, which must go well. Tidied up where the test is ended meanwhile."""
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))
    environment = {word: value for word, value in os.environ.items() if not word.startswith(("HEADRACE_", "RAY_"))}
    demo = subprocess.Popen(
        [sys.executable, "-m", f"examples.{name}.demo"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = demo.communicate()
    except BaseException:
        demo.send_signal(signal.SIGINT)  # it tidies up
        try:
            demo.wait(timeout=120)
        finally:
            demo.kill()
        raise
    assert demo.returncode == 0, printed[-6000:]
    return printed
