"""`python -m bench.batch [--quick] [--json]`: bulk scoring against bare processes, Ray Data over rows, and Spark.

Ours and the limit take turns; figures are medians. The limit is one bare process a core that does nothing but read, score
and write the same columns, its files dealt out beforehand. Ours counts from the first row to the published result; what
comes before is the start-up, from the command's first instruction on a running cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench.batch_data import Case, spec_of, write_dataset, write_model
from bench.batch_rivals import bare_seconds, ray_data_seconds, spark_seconds
from bench.figures import Figure, show
from bench.service import ENVIRONMENT
from consumers.batch.spec import BatchSpec
from consumers.batch.write.records import Pinned

FEATURES = Case("features", files=16, rows_a_file=125_000, width=64, layers=(256, 128, 2))
FULL = (
    FEATURES,
    Case("wide", files=8, rows_a_file=50_000, width=784, layers=(128, 10), as_list=True),
    Case("texts", files=8, rows_a_file=125_000, width=12, layers=(256, 128, 2), texts=True),
    Case("tiny_files", files=1000, links=20, rows_a_file=100, width=64, layers=(256, 128, 2)),
    Case("one_file", files=1, rows_a_file=8_000_000, width=64, layers=(256, 128, 2)),
)
QUICK = (
    FEATURES,
    Case("wide", files=4, rows_a_file=25_000, width=784, layers=(128, 10), as_list=True),
    Case("texts", files=4, rows_a_file=125_000, width=12, layers=(256, 128, 2), texts=True),
    Case("tiny_files", files=200, links=20, rows_a_file=100, width=64, layers=(256, 128, 2)),
    Case("one_file", files=1, rows_a_file=1_500_000, width=64, layers=(256, 128, 2)),
)
GROWN, QUICK_GROWN = replace(FEATURES, name="grown", links=10), replace(FEATURES, name="grown", files=4, links=10)
LOWER = "lower is better"
_GLANCE_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller cases and fewer rounds: about three minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--rounds", type=int, help="how often ours and the limit take turns")
    options = parser.parse_args()
    screen = Console(stderr=True)
    cores = os.cpu_count() or 1
    rounds = options.rounds or (3 if options.quick else 5)
    figures: list[Figure] = []
    # Ray's workers are nice by default: beside anything else that computes they would stand still, and the limit would not.
    os.environ.update(ENVIRONMENT)
    # Compiling Ray anew in each process would be most of the start-up; an installation that is used has it compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    import ray.data  # reads its variables then

    folder = Path(tempfile.mkdtemp(prefix="hb-"))
    try:
        context = ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            object_store_memory=512 * 1024 * 1024,
            log_to_driver=False,
            logging_level="ERROR",
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        address = str(context.address_info["gcs_address"])
        for case in QUICK if options.quick else FULL:
            screen.print(f"{case.name}: {case.rows:,} rows x {case.width}, {case.files * case.links} files")
            figures += measure(case, folder, address, cores, rounds if case is FEATURES else max(1, rounds - 2), screen)
            shutil.rmtree(folder / case.name)
        figures += grow(QUICK_GROWN if options.quick else GROWN, folder, address, cores, screen)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    show(figures, as_json=options.json)


def drive(address: str, spec: BatchSpec, pinned: Pinned, *pause: str) -> dict[str, Any]:
    """One run by a driver of its own; what it tells, and `start_s`: from its first instruction to the first row."""
    launched = time.time()
    answer = subprocess.run(
        [sys.executable, "-m", "bench.batch_driver", address, spec.model_dump_json(), pinned.model_dump_json(), *pause],
        check=False,
        env={**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal"},
        capture_output=True,
    )
    if answer.returncode:
        raise SystemExit(f"the run failed: {answer.stderr.decode(errors='replace')[-2000:]}")
    told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return told | {"start_s": told["first_s"] - launched, "seconds": told["published_s"] - told["first_s"]}


def measure(case: Case, folder: Path, address: str, cores: int, rounds: int, screen: Console) -> list[Figure]:
    """All figures of one case."""
    source, model = folder / case.name / "in", folder / case.name / "model"
    write_dataset(case, source)
    os.sync()  # what the kernel still has to write would slow the first round down
    pinned = write_model(case, model)
    spec = spec_of(case, source, folder / case.name / "out", cores)
    ours, bare, starts = [], [], []
    for turn in range(rounds):
        run = drive(address, spec, pinned)
        assert run["written"] == case.rows
        starts.append(run["start_s"])
        ours.append(case.rows / run["seconds"])
        target = folder / case.name / f"bare-{turn}"
        bare.append(case.rows / bare_seconds(case, source, target, model / "model.onnx", cores))
        shutil.rmtree(target)
        screen.print(f"  round {turn + 1}: ours {ours[-1]:,.0f}, limit {bare[-1]:,.0f} rows/s; start-up {starts[-1]:.1f} s")
    rate = statistics.median(ours)
    figures = [
        Figure(f"batch.{case.name}.embedded", rate, statistics.median(bare), "rows/s"),
        Figure(f"batch.{case.name}.start_up", statistics.median(starts), 6.0, f"s ({LOWER}; the reference is the bound)"),
    ]
    if case is FEATURES:
        theirs = case.rows / ray_data_seconds(case, source, folder / case.name / "ray-data", model / "model.onnx", cores)
        figures.append(Figure("batch.features.against_ray_data_rows", rate, theirs, "rows/s"))
        spark_s = spark_seconds(case, source, folder / case.name / "spark", model / "model.onnx", cores)
        if spark_s is None:
            screen.print(
                "  no comparison with Spark: it needs pyspark (pip install 'headrace[bench]') and a whole JDK", markup=False
            )
        else:
            figures.append(Figure("batch.features.against_spark", rate, case.rows / spark_s, "rows/s"))
    return figures


def grow(case: Case, folder: Path, address: str, cores: int, screen: Console) -> list[Figure]:
    """The time and the memory of `case` against those of a tenth of its rows."""
    told = []
    for some in (replace(case, name="seed", links=case.links // 10), case):
        source, model = folder / some.name / "in", folder / some.name / "model"
        write_dataset(some, source)
        pinned = write_model(some, model)
        spec = spec_of(some, source, folder / some.name / "out", cores)
        with Peak() as peak:
            run = drive(address, spec, pinned)
        told.append((run["seconds"], peak.most_bytes / 2**20))
        screen.print(f"{some.rows:,} rows: {told[-1][0]:.1f} s, peak {told[-1][1]:,.0f} MiB")
        shutil.rmtree(folder / some.name)
    (few_s, few_mib), (many_s, many_mib) = told
    return [
        Figure("batch.growth.embedded", many_s, 10 * few_s, f"s for ten times the rows ({LOWER}; the reference is ten times)"),
        Figure("batch.memory.embedded", many_mib, few_mib, f"MiB at most, for ten times the rows ({LOWER})"),
    ]


class Peak:
    """The most memory that this job's processes held at a time: the driver and Ray's workers, looked at again and again."""

    def __init__(self) -> None:
        self.most_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_GLANCE_S):
            held = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    command = process.cmdline()
                    if command and (command[0].startswith("ray::") or "bench.batch_driver" in command):
                        held += process.memory_info().rss
            self.most_bytes = max(self.most_bytes, held)


if __name__ == "__main__":
    main()
