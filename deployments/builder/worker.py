"""Runs one risky step of a build in its own process: frameworks crash, print, and load what users give them.

A worker is a module of this package that calls `serve(step)` when run. It gets one JSON job, and answers with one JSON object or
one error of our tree; whatever it prints goes to the build's log.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.error_wire import from_wire, to_wire
from cluster.foreign import trace_of

LOG_LINES = 12


def run_worker(
    step: str,
    job: Mapping[str, Any],
    *,
    what: str,
    log: Path,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    extra: str = "",
    folder: Path | None = None,
    show: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Runs the worker `deployments.builder.STEP` (such as `steps.prune`) on `job`, in `folder`; blocks until it ends.

    `what` names the step in errors. `show` is told each line that it prints.

    Its output is appended to `log`; `extra` is the one of Headrace's extras that it needs. Raises the error that the worker
    answered, whose trace is in the log and a note of it, or BadInput with its last lines where it died.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-step-") as scratch:
        question, answer = Path(scratch) / "job.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(dict(job)))
        variables = dict(os.environ) | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _import_path()} | dict(environment or {})
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                [python, "-P", "-m", f"deployments.builder.{step}", str(question), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=folder,
            )
            try:
                for line in process.stdout or ():
                    output.write(line)
                    if show:
                        show(line.decode(errors="replace").rstrip())
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdout:
                    process.stdout.close()
        if not answer.exists():
            missing = re.search(r"^ModuleNotFoundError: No module named '([^']+)'", _tail(log, start), re.MULTILINE)
            if missing and extra:
                raise errors.BadInput(
                    f"{what} needs {missing.group(1)}, which is not installed",
                    where=python,
                    remedy=f"pip install 'headrace[{extra}]'",
                )
            raise errors.BadInput(
                f"{what} {_ending(code)}{_last_lines(log, start)}", where=str(log), remedy="see the whole log there"
            )
        found: dict[str, Any] = json.loads(answer.read_text())
    failure = from_wire(found.get("error"))
    if failure is not None:
        if trace := found.get("trace", ""):
            with log.open("a", encoding="utf-8") as output_text:
                output_text.write(trace)
            failure.add_note(trace)
        raise failure
    return found


def serve(step: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The worker's side: reads the job, runs `step`, writes its answer or its HeadraceError. Other errors end the process."""
    question, answer = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        found = step(json.loads(question.read_text()))
    except errors.HeadraceError as error:
        found = {"error": to_wire(error), "trace": _traced(error)}
    partial = answer.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.rename(answer)


def _traced(error: errors.HeadraceError) -> str:
    """Where it came from. What the libraries said is in it only where its user has asked for that: they quote rows."""
    wanted = os.environ.get("HEADRACE_DEBUG", "") not in ("", "0")
    return "".join(traceback.format_exception(error)) if wanted else trace_of(error)


def _import_path() -> str:
    """Where the worker finds this package, also when it is not installed in its Python."""
    home = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return f"{home}{os.pathsep}{known}" if known else home


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}" + (": not enough memory?" if -code == signal.SIGKILL else "")
    return f"failed with exit code {code}"


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _last_lines(log: Path, start: int) -> str:
    lines = [line for line in _tail(log, start).splitlines() if line.strip()][-LOG_LINES:]
    return ":\n  " + "\n  ".join(lines) if lines else ""
