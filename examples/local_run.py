"""A run of an example's own: the command line as its user would call it, on a home in the example's `out` and on free ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.local.ports import free_port

HEADRACE = Path(sys.executable).with_name("headrace")


class Walkthrough:
    """An example's steps, each held against what it should come to. `wrong` of them did not."""

    def __init__(self) -> None:
        self.wrong = 0

    def see(self, what: str, found: object, wanted: object) -> None:
        """Prints it, and counts it where it is another than it should be."""
        good = found == wanted
        self.wrong += not good
        print(f"   {'ok   ' if good else 'WRONG'} {what}: {found}{'' if good else f', not {wanted}'}", flush=True)

    def end(self, started_s: float) -> int:
        """Prints how it went, and how long since then. Returns the exit code: 0 where everything was as it should be."""
        print(f"{'Everything is as it should be.' if not self.wrong else f'{self.wrong} things are WRONG.'}", end=" ")
        print(f"{time.monotonic() - started_s:.0f} s.")
        return 1 if self.wrong else 0


def begin_afresh(out: Path) -> None:
    """Ends what an earlier run has left and removes what it wrote. `out` has the home of all commands from now on."""
    os.environ["HEADRACE_HOME"] = str(out / "home")
    end_run(out)
    shutil.rmtree(out, ignore_errors=True)


@contextmanager
def running(out: Path, *options: str) -> Iterator[dict[str, str]]:
    """Headrace on free ports of this machine while the block runs, and its addresses. `options` are more of `headrace up`'s."""
    names = ["http", "grpc", "dashboard", *(["broker"] if "--broker" in options else [])]
    try:
        headrace("up", *options, *(f"--{name}-port={free_port()}" for name in names))
        yield json.loads(headrace("status", "--json", show=False))["addresses"]
    finally:
        end_run(out)


def end_run(out: Path) -> None:
    """Safe to repeat."""
    if (out / "home" / "run.json").exists():
        headrace("down")


def headrace(*arguments: str, show: bool = True) -> str:
    """The command line, as its user would call it; ends the example where it fails. Returns what it says where it isn't shown."""
    if show:
        print(f"$ headrace {' '.join(arguments)}", flush=True)
    done = subprocess.run([str(HEADRACE), *arguments], stdout=None if show else subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"headrace {' '.join(arguments)} ended with exit code {done.returncode}")
    return done.stdout or ""


def headrace_as(who: str, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with somebody's key or token; what became of it, also where it was refused."""
    print(f"$ HEADRACE_TOKEN=<{who}'s> headrace {' '.join(arguments)}", flush=True)
    environment = {**os.environ, "HEADRACE_TOKEN": token}
    return subprocess.run([str(HEADRACE), *arguments], capture_output=True, text=True, env=environment, check=False)
