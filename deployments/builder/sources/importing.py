"""The first half of a build: the source as ONNX, proven to answer as its own framework does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import BadInput, EngineFailure, NotFound
from cluster.signature import Signature
from deployments.artifacts.manifest import file_digest
from deployments.builder.evaluation.quality import max_difference
from deployments.builder.sources.rows import PARITY_ROWS, UNSEEN_ROWS, LabelledRows, random_rows, read_rows
from deployments.builder.spec import BuildSpec
from deployments.builder.steps.graph import check_inputs, read_signature, run_rows
from deployments.builder.worker import run_worker
from deployments.engines.load import MODEL_FILES, open_engine
from deployments.engines.port import Engine

ALONE_ROWS = 8
# Keras runs on torch, so that its files need no TensorFlow.
ENVIRONMENT = {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "2"}
# Which of Headrace's extras each kind of source needs.
EXTRAS = {"pytorch": "torch", "pt2": "torch", "keras": "keras", "saved_model": "tensorflow", "onnx": "torch"}
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """The source as its engine reads it: file, signature, the rows it is judged on, what is known of it, and its parity."""

    file: Path
    signature: Signature
    rows: LabelledRows
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
    target, expected = work / MODEL_FILES[spec.engine], work / "expected.npz"
    evaluate = spec.evaluate
    job: dict[str, Any] = {
        "file": str(file),
        "engine": spec.engine,
        "inputs": [item.model_dump(mode="json") for item in spec.inputs],
        "outputs": list(spec.outputs),
        "evaluate": {"data": str(base / evaluate.data), "rows": evaluate.rows} if evaluate else None,
        "target": str(target),
        "expected": str(expected),
    }
    if spec.source.pytorch:
        source = spec.source.pytorch
        job |= {"class": source.class_, "args": source.args, "code": str((base / source.code).resolve())}
    told = run_worker(
        f"sources.from_{spec.source.kind}",
        job,
        what=f"importing {file.name}",
        log=log,
        environment=ENVIRONMENT,
        extra=EXTRAS[spec.source.kind],
    )
    signature = Signature.model_validate(told.pop("signature")) if spec.engine == "torch" else read_signature(target)
    check_inputs(spec.inputs, signature, "inputs")
    rows = _rows(spec, base, signature)
    checked = rows.take(slice(PARITY_ROWS if evaluate else UNSEEN_ROWS))
    progress("compare with the source")
    parity = _parity(open_engine(spec.engine, target, signature), checked, expected, file)
    if not parity <= spec.parity:
        raise BadInput(
            f"the imported model differs from the source by up to {parity:.3g}, more than {spec.parity:g}",
            where=str(file),
            remedy="set parity higher only where you know why",
        )
    about = {"kind": spec.source.kind, "file": file.name, "sha256": file_digest(file), **told}
    return Imported(target, signature, rows, about, parity)


def _rows(spec: BuildSpec, base: Path, signature: Signature) -> LabelledRows:
    if spec.evaluate is None:
        return random_rows(signature.inputs, UNSEEN_ROWS)
    return read_rows(base / spec.evaluate.data, signature.inputs, label=spec.evaluate.label, limit=spec.evaluate.rows)


def _parity(engine: Engine, rows: LabelledRows, expected: Path, file: Path) -> float:
    with np.load(expected, allow_pickle=False) as archive:
        theirs = {name: archive[name] for name in archive.files}
    try:
        many = run_rows(engine, rows.inputs)
        alone = run_rows(engine, rows.take(slice(ALONE_ROWS)).inputs, batch=1)
    except EngineFailure as error:
        raise BadInput(
            f"the imported model fails on the rows: {error.what}", where=str(file), remedy="check the export"
        ) from error
    # Answers in the hundreds have fewer digits behind the point: for those the difference is relative to the largest.
    scale = max([1.0, *(float(np.abs(value.astype(np.float64)).max()) for value in theirs.values() if value.dtype != np.object_)])
    few = {name: value[:ALONE_ROWS] for name, value in theirs.items()}
    return max(max_difference(many, theirs), max_difference(alone, few)) / scale
