"""The first half of a build: the source as ONNX, proven to answer as its own framework does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import BadInput, EngineFailure, NotFound
from cluster.signature import Signature
from deployments.artifact import file_digest
from deployments.build.graph import check_inputs, read_signature, run_rows
from deployments.build.quality import max_difference
from deployments.build.rows import Rows, random_rows, read_rows
from deployments.build.spec import BuildSpec
from deployments.build.worker import run_worker
from deployments.engines.onnx import MODEL_FILE, OnnxEngine

PARITY_ROWS = 512
ALONE_ROWS = 8
UNSEEN_ROWS = 64
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """The source as ONNX: its file, its signature, the rows it is judged on, what is known of the source, and the parity."""

    file: Path
    signature: Signature
    rows: Rows
    source: dict[str, Any]
    parity: float


def import_source(spec: BuildSpec, base: Path, work: Path, log: Path, progress: Progress) -> Imported:
    """Converts the source in its own process and compares the answers, at batch 1 and at many.

    Raises NotFound (no such file) or BadInput.
    """
    file = base / spec.source.file
    if not file.exists():
        raise NotFound("no such file", where=str(file), remedy=f"train the model first, or correct source.{spec.source.kind}")
    progress(f"import {file.name} ({spec.source.kind})")
    rows = _rows(spec, base)
    checked = rows.take(slice(PARITY_ROWS))
    np.savez(work / "rows.npz", allow_pickle=False, **checked.inputs)
    onnx, expected = work / MODEL_FILE, work / "expected.npz"
    job: dict[str, Any] = {
        "file": str(file),
        "inputs": [item.model_dump(mode="json") for item in spec.inputs],
        "outputs": list(spec.outputs),
        "rows": str(work / "rows.npz"),
        "onnx": str(onnx),
        "expected": str(expected),
    }
    if spec.source.pytorch:
        source = spec.source.pytorch
        job |= {"class": source.class_, "args": source.args, "code": str((base / source.code).resolve())}
    told = run_worker(f"from_{spec.source.kind}", job, what=f"importing {file.name}", log=log)
    signature = read_signature(onnx)
    check_inputs(spec.inputs, signature, "inputs")
    progress("compare with the source")
    parity = _parity(OnnxEngine(onnx, signature, threads=1, gpus=0), checked, expected, file)
    if not parity <= spec.parity:
        raise BadInput(
            f"the ONNX model differs from the source by up to {parity:.3g}, more than {spec.parity:g}",
            where=str(file),
            remedy="set parity higher only where you know why",
        )
    about = {"kind": spec.source.kind, "file": file.name, "sha256": file_digest(file) if file.is_file() else "", **told}
    return Imported(onnx, signature, rows, about, parity)


def _rows(spec: BuildSpec, base: Path) -> Rows:
    if spec.evaluate is None:
        return random_rows(spec.inputs, UNSEEN_ROWS)
    return read_rows(base / spec.evaluate.data, spec.inputs, label=spec.evaluate.label, limit=spec.evaluate.rows)


def _parity(engine: OnnxEngine, rows: Rows, expected: Path, file: Path) -> float:
    with np.load(expected, allow_pickle=False) as archive:
        theirs = {name: archive[name] for name in archive.files}
    try:
        many = run_rows(engine, rows.inputs)
        alone = run_rows(engine, rows.take(slice(ALONE_ROWS)).inputs, batch=1)
    except EngineFailure as error:
        raise BadInput(f"the ONNX model fails on the rows: {error.what}", where=str(file), remedy="check the export") from error
    return max(max_difference(many, theirs), max_difference(alone, {name: value[:ALONE_ROWS] for name, value in theirs.items()}))
