"""`python -m bench.batch [--quick] [--json]`: bulk scoring against bare processes, Ray Data over rows, and Spark.

Ours and the limit take turns; figures are medians. The limit is one bare process a core that does nothing but read, score
and write the same columns, its files dealt out beforehand. Ours counts from the first row to the published result; what
comes before is the start-up, from the command's first instruction on a running cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ray
from rich.console import Console
from rich.table import Table

from bench.batch_data import Case, spec_of, write_dataset, write_model
from bench.batch_rivals import bare_seconds, ray_data_seconds, spark_seconds

FEATURES = Case("features", files=16, rows_a_file=125_000, width=64, layers=(256, 128, 2))
FULL = (
    FEATURES,
    Case("wide", files=8, rows_a_file=50_000, width=784, layers=(128, 10), as_list=True),
    Case("tiny_files", files=20_000, rows_a_file=100, width=64, layers=(256, 128, 2)),
    Case("one_file", files=1, rows_a_file=5_500_000, width=64, layers=(256, 128, 2)),
)
QUICK = (
    FEATURES,
    Case("wide", files=4, rows_a_file=25_000, width=784, layers=(128, 10), as_list=True),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the answer. `ratio` is value over reference."""

    name: str
    value: float
    reference: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.value / self.reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: under five minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--rounds", type=int, help="how often ours and the limit take turns")
    options = parser.parse_args()
    screen = Console(stderr=True)
    cores = os.cpu_count() or 1
    rounds = options.rounds or (2 if options.quick else 5)
    figures: list[Figure] = []
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
        for case in QUICK if options.quick else FULL:
            screen.print(f"{case.name}: {case.rows:,} rows x {case.width}, {case.files} files")
            figures += measure(case, folder, str(context.address_info["gcs_address"]), cores, rounds, screen)
            shutil.rmtree(folder / case.name)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    show(figures, as_json=options.json)


def measure(case: Case, folder: Path, address: str, cores: int, rounds: int, screen: Console) -> list[Figure]:
    """All figures of one case."""
    source, model = folder / case.name / "in", folder / case.name / "model"
    write_dataset(case, source)
    pinned = write_model(case, model)
    spec = spec_of(case, source, folder / case.name / "out", cores)
    ours, bare, starts = [], [], []
    for turn in range(rounds):
        launched = time.time()
        answer = subprocess.run(
            [sys.executable, "-m", "bench.batch_driver", address, spec.model_dump_json(), pinned.model_dump_json()],
            check=True,
            env={**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal"},
            stdout=subprocess.PIPE,
        )
        run = json.loads(answer.stdout.splitlines()[-1])
        assert run["written"] == case.rows
        starts.append(run["first_s"] - launched)
        ours.append(case.rows / (run["published_s"] - run["first_s"]))
        target = folder / case.name / f"bare-{turn}"
        bare.append(case.rows / bare_seconds(case, source, target, model / "model.onnx", cores))
        shutil.rmtree(target)
        screen.print(f"  round {turn + 1}: ours {ours[-1]:,.0f}, limit {bare[-1]:,.0f} rows/s; start-up {starts[-1]:.1f} s")
    rate = statistics.median(ours)
    figures = [
        Figure(f"batch.{case.name}.embedded", rate, statistics.median(bare), "rows/s"),
        Figure(f"batch.{case.name}.start_up", statistics.median(starts), 6.0, "s (lower is better; the reference is the bound)"),
    ]
    if case is FEATURES:
        theirs = case.rows / ray_data_seconds(case, source, folder / case.name / "ray-data", model / "model.onnx", cores)
        figures.append(Figure("batch.features.against_ray_data_rows", rate, theirs, "rows/s"))
        spark_s = spark_seconds(case, source, folder / case.name / "spark", model / "model.onnx", cores)
        if spark_s is None:
            screen.print("  pyspark is not installed: no comparison with Spark (pip install 'headrace[bench]')")
        else:
            figures.append(Figure("batch.features.against_spark", rate, case.rows / spark_s, "rows/s"))
    return figures


def show(figures: list[Figure], *, as_json: bool) -> None:
    """The table, or a line a figure."""
    if as_json:
        for figure in figures:
            line = {"name": figure.name, "value": figure.value, "reference": figure.reference}
            print(json.dumps(line | {"ratio": figure.ratio, "unit": figure.unit}))
        return
    table = Table()
    for column in ("figure", "ours", "reference", "ratio", "unit"):
        table.add_column(column, justify="left" if column in ("figure", "unit") else "right")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.1f}", f"{figure.reference:,.1f}", f"{figure.ratio:.2f}", figure.unit)
    Console().print(table)


if __name__ == "__main__":
    main()
