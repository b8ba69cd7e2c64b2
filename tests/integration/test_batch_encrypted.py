"""An encrypted batch by real Ray workers: killed, resumed and published; and nothing in clear, and no key, anywhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cluster.schedule.jobs import JobState, RunCommand
from consumers.batch.run import begin
from consumers.batch.runs_seen import quarantine_of
from consumers.batch.score.inline import inline_workforce
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from deployments.privacy import parquet
from deployments.privacy.parquet import LockedFile, decryption, open_parquet
from tests.conftest import RayCluster
from tests.support.at_rest import RAYS, forms_of, forms_of_private, found_below, found_in, found_in_memory, rays_own
from tests.support.batch_driver import DRIVER, driver, workers
from tests.support.batch_parts import digits_pin, engine_scorer, images, published, quarantined, spec_of, write_file
from tests.support.node_keys import node_keys
from tests.support.waiting import until
from tests.unit.keys.test_keys import pair_in

pytestmark = [pytest.mark.proof, pytest.mark.timeout(300)]
WAIT_S = 120.0
FILES, FILE_ROWS = 20, 300
MARK = "Ada-Marked-of-Kent-73159"
NUMBER = 0x4D61726B6564 << 16  # the first id; the upper six bytes of each
MARKS = {"text": MARK.encode(), "number": (NUMBER >> 16).to_bytes(6, "little")}


@pytest.fixture
def keys(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where every process of the cluster looks for keys: `prod` is there."""
    with node_keys() as folder:
        pair_in(folder, "prod")
        parquet._factory.cache_clear()
        yield folder
    parquet._factory.cache_clear()


def dataset(folder: Path) -> int:
    """Marked rows, of which one can't be scored. Returns how many can."""
    for at in range(FILES):
        ids = range(NUMBER + at * FILE_ROWS, NUMBER + (at + 1) * FILE_ROWS)
        write_file(folder / f"{at}.parquet", ids, images(FILE_ROWS, seed=at), who=[MARK] * FILE_ROWS)
    write_file(folder / "bad.parquet", [NUMBER + FILES * FILE_ROWS], [None], who=[MARK])
    return FILES * FILE_ROWS


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Every key of pyarrow's own that this process was given to read with."""
    seen, unwrap = set[bytes](), parquet._Keys.unwrap_key

    def noted(self: Any, *wrapped: Any) -> bytes:
        seen.add(key := unwrap(self, *wrapped))
        return key

    monkeypatch.setattr(parquet._Keys, "unwrap_key", noted)
    return seen


def secrets_of(keys: Path, made: set[bytes]) -> dict[str, bytes]:
    """All that nobody may find."""
    found = MARKS | forms_of_private((keys / "prod.key").read_text())
    for at, key in enumerate(made):
        found |= forms_of(f"key {at} of pyarrow's", key)
    return found


def held_by_ray(cluster: RayCluster, wanted: Mapping[str, bytes]) -> set[str]:
    """What of it Ray's own processes hold in memory: all that actors and tasks are made with passes through them."""
    own = rays_own(str(cluster.logs.resolve().parent.parent))
    assert {name.split()[0] for name in own} == RAYS
    return set.union(*(found_in_memory(process, wanted) for process in own.values()))


def killed_twice(cluster: RayCluster, spec: Any, pin: Any, keys: Path, made: set[bytes]) -> set[str]:
    """A run whose worker dies, then its driver. Returns the units that were done."""
    before, runs = set(workers()), RunHistory(locate(spec.output.path))
    process = driver(cluster.address, "begin", spec, pin)
    try:
        assert process.stdout is not None
        worker_dies = True
        for line in filter(str.isdigit, map(str.strip, process.stdout)):  # Ray says that a worker died, too
            done = int(line)
            if done >= 3 and worker_dies:
                (set(workers()) - before).pop().kill()
                worker_dies = False
            if done >= 12:
                break
        process.send_signal(signal.SIGSTOP)
        left = runs.unfinished()
        assert left is not None
        for receipt in left.receipts():
            for file in receipt.files:
                open_parquet(Path((left.data / file.path).path), file.path)
        assert made
        held = held_by_ray(cluster, secrets_of(keys, made) | {"where the run lies": left.place.path.encode()})
        assert held == {"where the run lies"}  # an argument of the workers: what is told to them is found
    finally:
        process.kill()
        process.wait()
    done = {receipt.unit for receipt in left.receipts()}
    assert 12 <= len(done) < FILES * FILE_ROWS // 100
    return done


def test_nothing_is_in_clear_and_no_key_is_told(ray_cluster: RayCluster, keys: Path, made: set[bytes], tmp_path: Path) -> None:
    from consumers.batch.schedule.jobs import RayJobs

    start_s, pin, good = time.time() - 1, digits_pin(tmp_path / "model"), dataset(tmp_path / "in")
    columns = {"digit": "argmax(probabilities)", "p": "probabilities"}
    given = {"input": {"passthrough": ["id", "who"]}, "workers": {"max": 2}}

    def spec(name: str, **output: Any) -> Any:
        # Whole files in plain bytes: what is not encrypted is found.
        told = {"columns": columns, "compression": "none"} | output
        return spec_of(tmp_path / "in", tmp_path / name / "out", output=told, **given)

    clear = spec("clear")
    begin("clear", clear, pin, inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _: None)
    for folder in ("clear/out", "clear/out.quarantine"):
        _, found = found_below([tmp_path / folder], 0, keys, MARKS)
        assert set.union(*found.values()) == set(MARKS)

    secret = spec("secret", encrypt="prod")
    done = killed_twice(ray_cluster, secret, pin, keys, made)
    job = f"encrypted-{tmp_path.name}"
    told = (sys.executable, "-c", DRIVER, ray_cluster.address, "resume", secret.model_dump_json(), pin.model_dump_json())
    jobs = RayJobs()
    jobs.submit(RunCommand(job, "digits", 1, told))
    until(lambda: jobs.state([job])[job].state is not JobState.RUNNING, WAIT_S, every_s=0.5)
    assert jobs.state([job])[job].state is JobState.SUCCEEDED
    (run,) = RunHistory(locate(secret.output.path)).all()
    assert done < {receipt.unit for receipt in run.receipts()}

    # Read back with the key, it is what it would be in clear.
    rows = pq.read_table(tmp_path / "secret/out", decryption_properties=decryption()).sort_by("id")
    assert rows.num_rows == good
    assert rows.equals(published(tmp_path / "clear/out").select(rows.column_names))
    found = quarantine_of(secret, run.run_id)
    assert [row["who"] for reason in found.reasons for row in reason.samples] == [MARK]
    assert list(quarantined(tmp_path / "clear/out").values()) == [reason.reason for reason in found.reasons]
    assert len(made) >= 2  # of two workers, at least

    hidden = secrets_of(keys, made)
    searched, held = found_below([tmp_path / "secret"], 0, keys, hidden)
    assert (searched > 60, held) == (True, {})
    # Logs of Ray, of its jobs and workers, and whatever else was written meanwhile; the rows in clear, which are ours, aside.
    assert (ray_cluster.logs / f"job-driver-{job}.log").exists()
    told_of = {name: value for name, value in hidden.items() if name not in MARKS}
    searched, held = found_below([Path(gettempdir())], start_s, keys, told_of)
    assert (searched > 100, held) == (True, {})
    searched, held = found_below([ray_cluster.logs], 0, keys, MARKS)
    assert (searched > 10, held) == (True, {})
    state = states(ray_cluster)
    assert job.encode() in state
    assert found_in(state, hidden) == set()
    assert held_by_ray(ray_cluster, hidden | {"the job": job.encode()}) == {"the job"}

    # Without the key nobody reads a row, by whatever he reads it.
    (keys / "prod.key").unlink()
    parquet._factory.cache_clear()
    with pytest.raises(LockedFile, match="no key of this machine opens it"):
        quarantine_of(secret, run.run_id)
    for file in (tmp_path / "secret").rglob("*.parquet"):
        with pytest.raises(OSError, match="no decryption found"):
            ds.dataset(file, format="parquet").to_table()
        with pytest.raises((OSError, pa.ArrowException)):
            pq.read_table(file)


def states(cluster: RayCluster) -> bytes:
    """All that the dashboard tells of actors, tasks, workers, jobs and nodes."""
    pages = ["api/jobs/", "logical/actors", "nodes?view=summary", "api/serve/applications/", "api/cluster_status"]
    pages += [
        f"api/v0/{what}?detail=true&limit=10000" for what in ("actors", "tasks", "workers", "jobs", "objects", "runtime_envs")
    ]
    with httpx.Client(base_url=cluster.dashboard_url, headers=cluster.headers, timeout=60, trust_env=False) as client:
        return b"\n".join(client.get(page).raise_for_status().content for page in pages)
