"""The road of one version: import, prove it the same, evaluate, gate, package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Signature
from deployments.artifact import Artifact, Samples, file_digest, write_artifact
from deployments.build import gate as gates
from deployments.build.graph import check_inputs, read_signature, run_rows
from deployments.build.quality import Quality, classes, max_difference, quality
from deployments.build.rows import Rows, check_classes, random_rows, read_rows
from deployments.build.spec import BuildSpec
from deployments.build.worker import run_worker
from deployments.datatypes import Array
from deployments.engines.onnx import MODEL_FILE, OnnxEngine

SAMPLE_ROWS = 8
PARITY_ROWS = 512
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made: the artifact (None where the gate refused it), its report, and what the gate found broken."""

    artifact: Artifact | None
    report: dict[str, Any]
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """The source as ONNX: its file, signature, the rows it is judged on, and what the framework said of it."""

    file: Path
    signature: Signature
    rows: Rows
    source: dict[str, Any]
    parity: float


def build(spec: BuildSpec, *, model: str, base: Path, root: str | Path, log: Path, progress: Progress) -> Built:
    """Makes a version of `model` from a build section; `base` is the document's folder, `root` where artifacts are kept.

    Blocks for seconds to minutes. What frameworks print goes to `log`; `progress` is told each step. Raises BadInput or NotFound
    (the document or a file of it), NoCapacity (full disk); then nothing is left behind.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-build-") as folder:
        imported = _import(spec, base, Path(folder), log, progress)
        progress("evaluate")
        engine = OnnxEngine(imported.file, imported.signature, threads=1, gpus=0)
        answers = _answers(engine, imported.rows, imported.file)
        found = _judge(spec, answers, imported.rows, base)
        size_bytes = imported.file.stat().st_size
        broken = gates.broken(spec.gate, found, found, size_bytes=size_bytes)
        report = {
            "model": model,
            "source": imported.source,
            "parity": imported.parity,
            "variants": [{"name": "imported", "size_bytes": size_bytes, "quality": found.model_dump()}],
            "chosen": "imported",
            "broken": list(broken),
        }
        if broken:
            return Built(None, report, broken)
        progress("package")
        artifact = write_artifact(
            root,
            model=model,
            engine=spec.engine,
            signature=imported.signature,
            files={MODEL_FILE: imported.file},
            samples=_samples(imported.rows, answers),
            report=report,
            source=imported.source,
            steps=({"step": "import", "parity": imported.parity},),
        )
    return Built(artifact, report, ())


def _import(spec: BuildSpec, base: Path, work: Path, log: Path, progress: Progress) -> Imported:
    file = base / spec.source.file
    if not file.exists():
        raise BadInput("no such file", where=str(file), remedy=f"train the model first, or correct source.{spec.source.kind}")
    label = spec.evaluate.label if spec.evaluate else None
    if spec.evaluate:
        rows = read_rows(base / spec.evaluate.data, spec.inputs, label=label, limit=spec.evaluate.rows)
    else:
        rows = random_rows(spec.inputs, 64)
    progress(f"import {file.name} ({spec.source.kind})")
    checked = rows.take(slice(PARITY_ROWS))
    np.savez(work / "rows.npz", allow_pickle=False, **checked.inputs)
    source = spec.source.pytorch
    if source is None:
        raise BadInput(f"source {spec.source.kind} is not built yet", where="source", remedy="use pytorch")
    onnx, expected = work / MODEL_FILE, work / "expected.npz"
    told = run_worker(
        "from_torch",
        {
            "state_dict": str(file),
            "class": source.class_,
            "args": source.args,
            "code": str((base / source.code).resolve()),
            "inputs": [item.model_dump(mode="json") for item in spec.inputs],
            "outputs": list(spec.outputs),
            "rows": str(work / "rows.npz"),
            "onnx": str(onnx),
            "expected": str(expected),
        },
        what=f"importing {file.name}",
        log=log,
    )
    signature = read_signature(onnx)
    check_inputs(spec.inputs, signature, "inputs")
    progress("compare with the source")
    with np.load(expected, allow_pickle=False) as archive:
        parity = _parity(
            OnnxEngine(onnx, signature, threads=1, gpus=0), checked, {name: archive[name] for name in archive.files}, file
        )
    if parity > spec.parity:
        raise BadInput(
            f"the ONNX model differs from the source by up to {parity:.3g}, more than {spec.parity:g}",
            where=str(file),
            remedy="set parity higher only where you know why",
        )
    about = {"kind": spec.source.kind, "file": file.name, "sha256": file_digest(file), **told}
    return Imported(onnx, signature, rows, about, parity)


def _parity(engine: OnnxEngine, rows: Rows, expected: dict[str, Array], file: Path) -> float:
    """The largest difference from the framework's own answers, at batch 1 and at many."""
    try:
        many = run_rows(engine, rows.inputs)
        few = rows.take(slice(SAMPLE_ROWS)).inputs
        alone = run_rows(engine, few, batch=1)
    except EngineFailure as error:
        raise BadInput(f"the ONNX model fails on the rows: {error.what}", where=str(file), remedy="check the export") from error
    return max(
        max_difference(many, expected), max_difference(alone, {name: value[:SAMPLE_ROWS] for name, value in expected.items()})
    )


def _answers(engine: OnnxEngine, rows: Rows, file: Path) -> dict[str, Array]:
    try:
        return run_rows(engine, rows.inputs)
    except EngineFailure as error:
        raise BadInput(
            f"the model fails on the rows: {error.what}", where=str(file), remedy="see which rows evaluate.data holds"
        ) from error


def _judge(spec: BuildSpec, answers: dict[str, Array], rows: Rows, base: Path) -> Quality:
    task = spec.evaluate.task if spec.evaluate else "classification"
    if spec.evaluate and rows.labels is not None and task == "classification":
        check_classes(rows.labels, classes(answers), f"{base / spec.evaluate.data} column {spec.evaluate.label}")
    return quality(answers, answers, rows.labels, task)


def _samples(rows: Rows, answers: dict[str, Array]) -> Samples:
    return Samples(
        inputs=rows.take(slice(SAMPLE_ROWS)).inputs,
        outputs={name: value[:SAMPLE_ROWS] for name, value in answers.items()},
    )
