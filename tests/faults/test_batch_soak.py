"""A batch run that loses its driver, its workers and whole nodes, in a random order, each at least once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.write.publish import read_manifest
from consumers.batch.write.records import RunPhase
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_driver import driver, workers
from tests.support.batch_parts import digits_pin, engine_scorer, published, quarantined, spec_of, write_dataset, write_file

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1200)]
VICTIMS = ["driver", "worker", "node"]
ROUNDS = int(os.environ.get("HEADRACE_SOAK_ROUNDS", "3"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, which runs nothing, and two nodes that may be lost."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_whatever_dies_the_result_is_that_of_an_undisturbed_run(cluster: Cluster, tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADRACE_TEST_SEED", time.time_ns() % 10**6))
    print(f"HEADRACE_TEST_SEED={seed}")  # noqa: T201
    dice = random.Random(seed)
    pin = digits_pin(tmp_path)
    total = write_dataset(tmp_path / "in", files=20)
    write_file(tmp_path / "in/bad.parquet", [total], [None])
    settings = {"workers": {"min": 1, "max": 2}, "units": {"max_rows": 100}}
    calm = begin(
        "calm",
        spec_of(tmp_path / "in", tmp_path / "calm", **settings),
        pin,
        inline_workforce(engine_scorer),
        as_of=None,
        fresh=False,
        watch=lambda _progress: None,
    )
    every = list[str]()
    for turn in range(ROUNDS):
        spec = spec_of(tmp_path / "in", tmp_path / f"out-{turn}", **settings)
        runs, lost = RunHistory(locate(spec.output.path)), list[str]()
        # A run that survives its first loss has no second one: each kind is first in a round.
        victims = [*dice.sample(VICTIMS, len(VICTIMS)), VICTIMS[turn % len(VICTIMS)]]
        while not runs.all() or runs.all()[-1].phase() is not RunPhase.PUBLISHED:
            process = driver(cluster.address, "begin" if not runs.all() else "resume", spec, pin)
            victim = victims.pop() if victims else "nothing"
            try:
                _await_units(process, dice.randrange(1, 40))
                lost.append(_kill(victim, process, cluster, dice))
                process.wait(300)
            finally:
                process.kill()
                process.wait()
        print(f"round {turn + 1}: lost {lost}")  # noqa: T201
        every += lost
        manifest = read_manifest(runs.all()[-1])
        assert (manifest.rows, manifest.written, manifest.quarantined) == (total + 1, total, 1)
        assert [file.sha256 for file in manifest.files] == [file.sha256 for file in calm.files]
        assert published(tmp_path / f"out-{turn}").equals(published(tmp_path / "calm"))
        assert quarantined(tmp_path / f"out-{turn}") == quarantined(tmp_path / "calm")
    assert len(VICTIMS) > ROUNDS or set(VICTIMS) <= set(every)


def _await_units(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line) >= count:
            return


def _kill(victim: str, process: subprocess.Popen[str], cluster: Cluster, dice: random.Random) -> str:
    """What was lost: nothing where the run has ended, with its workers, before so many units were done."""
    if victim == "driver":
        process.kill()
    elif victim == "worker":
        while not (alive := workers()) and process.poll() is None:
            time.sleep(0.01)  # those of a lost node are being replaced
        if not alive:
            return "nothing"
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
            dice.choice(alive).kill()
    elif victim == "node":
        cluster.remove_node(dice.choice(list(cluster.worker_nodes)), allow_graceful=False)
        cluster.add_node(num_cpus=1)
    return victim
