"""`wrk` as load, where it is installed: one thread of it takes a tenth of what the load in Python takes of the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.http_load import Measured

# The request stands in a file each: Lua would have to escape it.
_SCRIPT = """
local function read(path) local file = io.open(path, "rb"); local all = file:read("*a"); file:close(); return all end
local whole = read("{request}")
request = function() return whole end
"""
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def installed() -> bool:
    """Whether `measure` can be called."""
    return shutil.which("wrk") is not None


def measure(port: int, message: bytes, *, connections: int, seconds: float) -> Measured:
    """As `http_load.measure`, in one thread, as fast as answers come. `answer_bytes` is not told: 0."""
    with tempfile.TemporaryDirectory(prefix="wrk-") as folder:
        whole, script = Path(folder) / "request", Path(folder) / "request.lua"
        whole.write_bytes(message)
        script.write_text(_SCRIPT.format(request=whole), encoding="utf-8")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--latency", "-s", str(script)]
        said = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, check=True, encoding="utf-8"
        ).stdout
    return read(said)


def read(said: str) -> Measured:
    """What wrk's report says. Raises ValueError where it says nothing of the kind."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    if rate is None or p99 is None:
        raise ValueError(f"this is no report of wrk: {said[:200]}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failures = int(failed[1]) if failed else 0
    failures += sum(map(int, broken.groups())) if broken else 0
    return Measured(float(rate[1]), float(p99[1]) * _MS[p99[2]], failures, 0)
