"""What Ray's C++ would say on a terminal goes into a file; what we say does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAYS = """
import os, sys, warnings
from pathlib import Path
from headrace.local.ray.words import kept_apart
print("before", file=sys.stderr)
with kept_apart(Path(sys.argv[1])):
    os.write(2, b"of the raylet\\n")
    print("ours", file=sys.stderr)
print("after", file=sys.stderr)
os.write(2, b"again\\n")
"""


def test_only_what_goes_past_python_is_kept_apart(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    done = subprocess.run([sys.executable, "-c", SAYS, str(log)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split() == ["before", "ours", "after", "again"]
    assert log.read_text() == "of the raylet\n"
