"""A stream through every fault on a real broker: each record comes out once, in order, and the lag goes back to 0.

The schedule is random; its seed is printed, and STREAM_FAULTS_SEED repeats it.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from consumers.stream.spec import Client
from tests.support.stream_faults import play, site

CLIENTS = [Client.KAFKA_PYTHON, Client.LIBRDKAFKA]
# What the rounds of `make test` draw from: those that take seconds.
SHORT = ["kill_worker", "cut", "kill_broker", "rebalance"]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints past pytest's capture, so that a round that hangs has said where."""

    def out(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}")
            sys.stdout.flush()

    return out


def a_seed() -> int:
    return int(os.environ.get("STREAM_FAULTS_SEED") or random.randrange(10**6))


@pytest.mark.proof
@pytest.mark.parametrize("client", CLIENTS)
def test_a_short_round(client: Client, tmp_path: Path, say: Callable[[str], None]) -> None:
    seed = a_seed()
    names = random.Random(seed).sample(SHORT, 2)
    say(f"{client}: seed {seed}: {', '.join(names)}")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with site(tmp_path, seed) as where:
        play(where, client, names, records=3000, say=say)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_fault(client: Client, tmp_path: Path, say: Callable[[str], None]) -> None:
    seed = a_seed()
    with site(tmp_path, seed) as where:
        names = [*where.faults]
        random.Random(seed).shuffle(names)
        say(f"{client}: seed {seed}: {', '.join(names)}")
        play(where, client, names, records=6000, say=say)
