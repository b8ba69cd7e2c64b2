"""What the batch bench compares with: bare processes (the limit), Ray Data over rows, Spark."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.batch_data import TEXTS, Case

CALL_ROWS = 2048
_GLANCE_S = 0.01
Piece = tuple[str, int]


def bare_seconds(case: Case, source: Path, output: Path, model: Path, processes: int) -> float:
    """One process a core, row groups dealt out beforehand; from the moment all are ready until the last file is written."""
    output.mkdir(parents=True)
    pieces = [(str(path), group) for path in sorted(source.iterdir()) for group in range(pq.read_metadata(path).num_row_groups)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    workers = [
        context.Process(target=_bare, args=(case, pieces[at::processes], str(output), str(model), at, barrier))
        for at in range(processes)
    ]
    for worker in workers:
        worker.start()
    while barrier.n_waiting < processes:
        if wait([worker.sentinel for worker in workers], timeout=_GLANCE_S):
            barrier.abort()  # else the others would wait for the dead one, and this process with them
            raise RuntimeError("a bare process ended before it began to score; its last words are above")
    barrier.wait()
    started = time.monotonic()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - started
    assert all(worker.exitcode == 0 for worker in workers)
    return seconds


def _bare(case: Case, pieces: Sequence[Piece], output: str, model: str, number: int, barrier: Barrier) -> None:
    import onnxruntime as ort

    pa.set_cpu_count(1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if pieces:
        first = pq.ParquetFile(pieces[0][0]).read_row_group(pieces[0][1], columns=case.columns, use_threads=False)
        session.run(["p"], _feed(first.slice(0, CALL_ROWS).combine_chunks().to_batches()[0], case))
    barrier.wait()
    for at, (path, group) in enumerate(pieces):
        table = pq.ParquetFile(path).read_row_group(group, columns=case.columns, use_threads=False)
        answers = [session.run(["p"], _feed(batch, case))[0] for batch in table.to_batches(max_chunksize=CALL_ROWS)]
        p = np.concatenate(answers)
        written = {
            "p": pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1)), p.shape[1]),
            "label": pa.array(p.argmax(axis=1).astype(np.int32)),
        }
        pq.write_table(pa.table(written), f"{output}/{number}-{at}.parquet", compression="zstd")


def _feed(batch: pa.RecordBatch, case: Case) -> dict[str, np.ndarray]:
    if not case.texts:
        return {"x": _rows(batch, case)}
    texts = [batch.column(name).to_numpy(zero_copy_only=False) for name in case.columns[:TEXTS]]
    numbers = batch.select(case.columns[TEXTS:]).to_tensor(row_major=True).to_numpy()
    return {"s": np.stack(texts, axis=1), "k": np.asarray(numbers)}


def _rows(batch: pa.RecordBatch, case: Case) -> np.ndarray:
    if case.as_list:
        return np.asarray(batch.column("x").flatten().to_numpy().reshape(-1, case.width))
    return np.asarray(batch.to_tensor(row_major=True).to_numpy())


def ray_data_seconds(case: Case, source: Path, output: Path, model: Path, workers: int) -> float:
    """`read_parquet().map_batches().write_parquet()` as its documentation writes it, start-up of its actors included."""
    import ray

    started = time.monotonic()
    dataset = ray.data.read_parquet(str(source))
    compute = ray.data.ActorPoolStrategy(size=workers)
    scored = dataset.map_batches(
        _Rows, fn_constructor_args=(str(model), case), compute=compute, num_cpus=0.5, batch_size=8192, batch_format="pyarrow"
    )
    scored.write_parquet(str(output), compression="zstd")
    return time.monotonic() - started


class _Rows:
    def __init__(self, model: str, case: Case) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._case = case

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = table.combine_chunks().to_batches()[0]
        (p,) = self._session.run(["p"], {"x": _rows(batch, self._case)})
        return pa.table(
            {
                "p": pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1)), p.shape[1]),
                "label": pa.array(p.argmax(axis=1).astype(np.int32)),
            }
        )


def spark_seconds(case: Case, source: Path, output: Path, model: Path, cores: int) -> float | None:
    """`predict_batch_udf` on a warm local Spark; None where pyspark (an extra of the bench) or a Java for it is missing."""
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.ml.functions import predict_batch_udf
        from pyspark.sql import SparkSession
        from pyspark.sql.functions import array, col
        from pyspark.sql.types import ArrayType, FloatType
    except ImportError:
        return None

    def make() -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["p"], {"x": np.ascontiguousarray(inputs, dtype=np.float32)})[0]

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # its workers need this environment, not the first python3 on PATH
    try:
        spark = SparkSession.builder.master(f"local[{cores}]").config("spark.ui.enabled", "false").getOrCreate()
    except PySparkRuntimeError:
        return None
    try:
        score = predict_batch_udf(make, return_type=ArrayType(FloatType()), batch_size=8192, input_tensor_shapes=[[case.width]])
        frame = spark.read.parquet(str(source))
        given = col("x") if case.as_list else array(*case.columns)
        seconds = 0.0
        for attempt in ("warm", "timed"):  # the first one starts Python workers and compiles
            started = time.monotonic()
            frame.select(score(given).alias("p")).write.mode("overwrite").parquet(str(output / attempt))
            seconds = time.monotonic() - started
        return seconds
    finally:
        spark.stop()
