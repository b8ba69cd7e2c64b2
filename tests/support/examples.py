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
    """What `python -m examples.NAME.demo` prints, which must go well. Tidied up where the test is ended meanwhile; then what was
    printed so far is shown with it."""
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))
    environment = {word: value for word, value in os.environ.items() if not word.startswith(("HEADRACE_", "RAY_"))}
    printed = folder / "printed.txt"
    with printed.open("w", encoding="utf-8") as told:
        demo = subprocess.Popen(
            [sys.executable, "-m", f"examples.{name}.demo"],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(folder)},
            stdout=told,
            stderr=subprocess.STDOUT,
        )
    try:
        demo.wait()
    except BaseException:
        sys.stdout.write(printed.read_text(encoding="utf-8")[-6000:])
        demo.send_signal(signal.SIGINT)  # it tidies up
        try:
            demo.wait(timeout=120)
        finally:
            demo.kill()
        raise
    found = printed.read_text(encoding="utf-8")
    assert demo.returncode == 0, found[-6000:]
    return found
