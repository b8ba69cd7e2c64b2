"""The systemd unit: systemd understands it, the command line takes its options, and it has the time to drain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "ops" / "headrace.service"
INSTALLED = "/opt/headrace/.venv/bin/headrace"
HEADRACE = str(Path(sys.executable).with_name("headrace"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_understands_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(INSTALLED, HEADRACE))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.thorough
def test_the_command_line_takes_its_options_and_it_may_drain_in_time() -> None:
    text = UNIT.read_text()
    (options,) = re.findall(rf"^ExecStart={INSTALLED} (.*)$", text, re.MULTILINE)
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    told = subprocess.run([HEADRACE, *options.split(), "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "--supervise" in told.stdout
    assert float(options.split()[-1]) + 60 < float(limit)
