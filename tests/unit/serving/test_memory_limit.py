"""A process that holds more than it may is killed; one that does not lives on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

LEAK = """
import sys
import psutil
from deployments.serving.memory_limit import end_above

end_above(psutil.Process().memory_info().rss + 64_000_000)
kept = []
for _ in range(int(sys.argv[1])):
    kept.append(b"x" * 8_000_000)
print("alive", flush=True)
sys.stdin.read()
"""


def run(pieces: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", LEAK, str(pieces)], input=b"", capture_output=True, timeout=120, check=False)


def test_within_its_limit_a_process_lives() -> None:
    ended = run(2)
    assert (ended.returncode, ended.stdout) == (0, b"alive\n")


@pytest.mark.thorough
def test_above_its_limit_a_process_is_killed() -> None:
    """It waits for its end on a pipe that stays open."""
    leaking = subprocess.Popen([sys.executable, "-c", LEAK, "30"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert leaking.wait(120) == -signal.SIGKILL
    finally:
        leaking.kill()
        leaking.communicate()
