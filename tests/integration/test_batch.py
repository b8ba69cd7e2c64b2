"""Batch runs on a real Ray, killed for real."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from cluster.errors import Conflict, HeadraceError
from cluster.watch.payloads import PayloadFiles, Payloads
from consumers.batch.ray_inside import ACTORS
from consumers.batch.run import begin, resume
from consumers.batch.write.lock import is_held
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.conftest import RayCluster
from tests.support.batch_driver import driver, workers
from tests.support.batch_parts import digits_pin, images, published, quarantined, spec_of, write_dataset, write_file

WAIT_S = 120.0


def named_actors() -> set[tuple[str, str]]:
    import ray

    return {(one["namespace"], one["name"]) for one in ray.util.list_named_actors(all_namespaces=True)}


def test_a_whole_run_on_a_pool_of_workers(ray_cluster: RayCluster, tmp_path: Path) -> None:
    from consumers.batch.score.pool import ray_workforce

    kept = Payloads(sample=1.0, parquet=PayloadFiles(path=str(tmp_path / "payloads")))
    pin = digits_pin(tmp_path).model_copy(update={"payloads": kept})
    total = write_dataset(tmp_path / "in")
    image = images(100)
    image[40] = None
    write_file(tmp_path / "in/bad.parquet", range(total, total + 100), image)
    spec = spec_of(tmp_path / "in", tmp_path / "out", workers={"max": 2})
    before, during = named_actors(), set[tuple[str, str]]()
    manifest = begin(
        "digits", spec, pin, ray_workforce(), as_of=None, fresh=False, watch=lambda _progress: during.update(named_actors())
    )
    assert during & ACTORS
    assert named_actors() <= before  # what Ray Data started for the run ended with it
    assert manifest.written == total + 99
    assert ds.dataset(tmp_path / "payloads").count_rows() == total + 99
    assert published(tmp_path / "out")["id"].to_pylist() == [at for at in range(total + 100) if at != total + 40]
    assert quarantined(tmp_path / "out") == {total + 40: "column image is null"}


def test_a_worker_that_cannot_go_on_ends_the_run_with_its_own_error(ray_cluster: RayCluster, tmp_path: Path) -> None:
    from consumers.batch.score.pool import ray_workforce

    pin = digits_pin(tmp_path)
    write_dataset(tmp_path / "in", files=1)
    gone = pin.model_copy(update={"artifact_uri": str(tmp_path / "nowhere")})
    with pytest.raises(HeadraceError, match="nowhere"):
        begin(
            "digits",
            spec_of(tmp_path / "in", tmp_path / "out", workers={"max": 1}),
            gone,
            ray_workforce(),
            as_of=None,
            fresh=False,
            watch=lambda _progress: None,
        )
    assert not (tmp_path / "out").exists()


def test_more_than_the_cluster_has_is_refused(ray_cluster: RayCluster, tmp_path: Path) -> None:
    from consumers.batch.score.pool import ray_workforce

    write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out", workers={"resources": {"gpus": 64}})
    with pytest.raises(HeadraceError, match="asks for 64 GPU"):
        begin("digits", spec, digits_pin(tmp_path), ray_workforce(), as_of=None, fresh=False, watch=lambda _progress: None)


@pytest.mark.proof
def test_killed_at_random_it_publishes_what_an_undisturbed_run_does(ray_cluster: RayCluster, tmp_path: Path) -> None:
    from consumers.batch.score.pool import ray_workforce

    seed = int(os.environ.get("HEADRACE_TEST_SEED", time.time_ns() % 10**6))
    print(f"HEADRACE_TEST_SEED={seed}")  # noqa: T201
    dice = random.Random(seed)
    pin = digits_pin(tmp_path)
    total = write_dataset(tmp_path / "in", files=30)
    write_file(tmp_path / "in/bad.parquet", [total], [None])
    settings = {"workers": {"max": 2}, "units": {"max_rows": 100}}
    calm = begin(
        "calm",
        spec_of(tmp_path / "in", tmp_path / "calm", **settings),
        pin,
        ray_workforce(),
        as_of=None,
        fresh=False,
        watch=print,
    )
    spec = spec_of(tmp_path / "in", tmp_path / "out", **settings)
    runs = RunHistory(locate(spec.output.path))
    what = "begin"
    for _ in range(2):
        process = driver(ray_cluster.address, what, spec, pin)
        try:
            assert process.stdout is not None
            at = dice.randrange(0, 60)
            for line in process.stdout:
                if json.loads(line) >= at:
                    break
            process.send_signal(signal.SIGSTOP)  # 30 units are left, which take no longer than the looks that follow
            if what == "begin" or process.poll() is None:
                assert is_held(runs.home)
                with pytest.raises(Conflict, match="under way"):
                    resume("digits", spec.output.path, ray_workforce(), watch=lambda _progress: None)
                assert not (tmp_path / "out").exists()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        what = "resume"
    manifest = resume("digits", spec.output.path, ray_workforce(), watch=lambda _progress: None)
    assert (manifest.rows, manifest.written, manifest.quarantined) == (total + 1, total, 1)
    assert [file.sha256 for file in manifest.files] == [file.sha256 for file in calm.files]
    assert published(tmp_path / "out").equals(published(tmp_path / "calm"))
    assert quarantined(tmp_path / "out") == quarantined(tmp_path / "calm")
    assert len(list((tmp_path / "out").iterdir())) == len(manifest.files)


@pytest.mark.proof
def test_a_killed_worker_costs_nothing_but_time(ray_cluster: RayCluster, tmp_path: Path) -> None:
    pin = digits_pin(tmp_path)
    total = write_dataset(tmp_path / "in", files=30)
    before = set(workers())
    process = driver(ray_cluster.address, "begin", spec_of(tmp_path / "in", tmp_path / "out", workers={"max": 2}), pin)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line) >= 3:
                break
        ours = set(workers()) - before
        assert ours
        ours.pop().kill()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
    assert published(tmp_path / "out")["id"].to_pylist() == list(range(total))


def test_a_second_run_is_refused_and_a_dead_one_resumed(ray_cluster: RayCluster, tmp_path: Path) -> None:
    from consumers.batch.score.pool import actor_lock

    home = locate(str(tmp_path / "out"))
    with (
        actor_lock(home, "digits", wait=False),
        pytest.raises(Conflict, match="under way"),
        actor_lock(home, "digits", wait=False),
    ):
        pass


def test_a_second_run_of_an_object_store_may_wait_for_the_first(ray_cluster: RayCluster, tmp_path: Path) -> None:
    from consumers.batch.score.pool import actor_lock

    home, held, may_go, order = locate(str(tmp_path / "out")), threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        with actor_lock(home, "digits", wait=False):
            held.set()
            may_go.wait(WAIT_S)
            order.append("first")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        assert held.wait(WAIT_S)
        timer = threading.Timer(1.5, may_go.set)
        timer.start()
        with actor_lock(home, "digits", wait=True):
            order.append("second")
        running.result()
    assert order == ["first", "second"]


def test_readers_never_see_half_of_a_replacement(tmp_path: Path) -> None:
    """A reader that lists the output again and again meets one run or the other, whole."""
    from consumers.batch.score.inline import inline_workforce
    from tests.support.batch_parts import engine_scorer

    write_dataset(tmp_path / "in", files=2)
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    reader = (
        "import os, sys\nseen = set()\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    names = os.listdir(sys.argv[1])\n"
        "    seen.add((len(names), len({n.split('-', 2)[2] for n in names})))\n"
        "print(sorted(seen), flush=True)\n"
    )
    workforce = inline_workforce(engine_scorer)
    first = begin("digits", spec, digits_pin(tmp_path), workforce, as_of=None, fresh=False, watch=lambda _progress: None)
    process = subprocess.Popen(
        [sys.executable, "-c", reader, str(tmp_path / "out"), str(tmp_path / "stop")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for version in (2, 3, 4):
            begin("digits", spec, digits_pin(tmp_path, version), workforce, as_of=None, fresh=False, watch=lambda _progress: None)
        (tmp_path / "stop").touch()
        assert process.stdout.readline() == f"[({len(first.files)}, 1)]\n"
    finally:
        process.kill()
        process.wait()
    assert pa.compute.unique(published(tmp_path / "out")["v"]).to_pylist() == [4]
