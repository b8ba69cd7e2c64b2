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
from deployments.builder.evaluation.neighbours import Neighbours
from deployments.builder.evaluation.quality import max_difference
from deployments.builder.sources.answers import ALONE_ROWS, read_answers
from deployments.builder.sources.binding import IN_ORDER
from deployments.builder.sources.huggingface_models.trial_texts import trial_rows
from deployments.builder.sources.rows import PARITY_ROWS, UNSEEN_ROWS, LabelledRows, random_rows, ranged, read_rows
from deployments.builder.spec import BuildSpec
from deployments.builder.steps.graph import check_inputs, read_signature, run_rows
from deployments.builder.worker import run_worker
from deployments.engines.load import MODEL_FILES, open_engine
from deployments.engines.port import Engine

# Keras runs on torch, so that its files need no TensorFlow.
ENVIRONMENT = {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "2"}
# What is to be read lies here already: the hub's library asks nobody.
OFFLINE = {"HF_HUB_OFFLINE": "1"}
# Which of Headrace's extras each kind of source needs.
EXTRAS = {"pytorch": "torch", "pt2": "torch", "keras": "keras", "saved_model": "tensorflow", "onnx": "torch"}
# Fitted estimators, whose workers are in a room of their own.
TABLES = {"sklearn": "sklearn", "xgboost": "sklearn", "lightgbm": "sklearn", "catboost": "catboost"}
EXTRAS |= TABLES | {"huggingface": "huggingface"}
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
    told = run_worker(
        f"{_room(spec.source.kind)}.from_{spec.source.kind}",
        _job(spec, base, file, target, expected),
        what=f"importing {file.name}",
        log=log,
        environment=ENVIRONMENT | OFFLINE,
        extra=EXTRAS[spec.source.kind],
    )
    for what in ("inputs", "outputs"):
        if told.get(what) == IN_ORDER:
            progress(f"{what} are taken {IN_ORDER}")
    if told.get("max_length"):
        progress(f"texts are cut at {told['max_length']} tokens: {told['cut']['longer']} of {told['cut']['rows']} are longer")
    if told.get("row_by_row"):
        progress("rows are scored one after the other: the file takes one at a time")
    _refuse_unsteady(Neighbours.model_validate(told["neighbours"]), file, spec)
    signature = (
        Signature.model_validate(told.pop("signature"))
        if "signature" in told
        else read_signature(target, spec.inputs, where=file)
    )
    check_inputs(spec.inputs, signature.inputs, "inputs")
    rows = _rows(spec, base, signature)
    checked = rows.take(slice(PARITY_ROWS if spec.evaluate else UNSEEN_ROWS))
    progress("compare with the source")
    parity = _parity(open_engine(spec.engine, target, signature), checked, expected, file, told.get("fixed_batch"))
    worst = max(parity, key=lambda way: parity[way])
    if not parity[worst] <= spec.parity:
        raise BadInput(
            f"the imported model differs from the source by up to {parity[worst]:.3g} on rows scored {worst}, more than"
            f" {spec.parity:g}",
            where=str(file),
            remedy="set parity higher only where you know why"
            + ("" if spec.evaluate else "; the rows were drawn at random: evaluate.data gives real ones"),
        )
    about = {"kind": spec.source.kind, "file": file.name, "sha256": file_digest(file), **told}
    return Imported(target, signature, rows, about, parity[worst])


def _room(kind: str) -> str:
    if kind in TABLES:
        return "sources.tables"
    return "sources.huggingface_models" if kind == "huggingface" else "sources"


def _job(spec: BuildSpec, base: Path, file: Path, target: Path, expected: Path) -> dict[str, Any]:
    evaluate = spec.evaluate
    job: dict[str, Any] = {
        "file": str(file),
        "engine": spec.engine,
        "inputs": [item.model_dump(mode="json") for item in spec.inputs],
        "outputs": list(spec.outputs),
        "constants": spec.constants,
        "evaluate": {"data": str(base / evaluate.data), "rows": evaluate.rows, "refuse_nan": evaluate.refuse_nan}
        if evaluate
        else None,
        "task": evaluate.task if evaluate else "classification",
        "target": str(target),
        "expected": str(expected),
    }
    if spec.source.pytorch:
        source = spec.source.pytorch
        job |= {"class": source.class_, "args": source.args, "state_dict_key": source.state_dict_key}
        job |= {"code": str((base / source.code).resolve())}
    estimator = spec.source.sklearn or spec.source.lightgbm
    if estimator:
        job |= {"allow_pickle": estimator.allow_pickle}
    if spec.source.keras:
        job |= {"custom": list(spec.source.keras.custom), "code": str((base / spec.source.keras.code).resolve())}
    if spec.source.huggingface:
        job |= {"huggingface": spec.source.huggingface.model_dump(mode="json")}
    return job


def _refuse_unsteady(found: Neighbours, file: Path, spec: BuildSpec) -> None:
    """Raises BadInput where the source answered the same rows in two ways, which no import could follow."""
    if found.steady:
        return
    rows = "" if spec.evaluate else "; or try it on real rows, evaluate.data: these were drawn at random"
    raise BadInput(
        f"it answers differently each time, by up to {found.twice:.3g} on the same rows: is dropout on?",
        where=str(file),
        remedy="leave out in eval() what is random: nn.Dropout does, F.dropout needs training=self.training" + rows,
    )


def _rows(spec: BuildSpec, base: Path, signature: Signature) -> LabelledRows:
    if spec.evaluate is None and spec.source.huggingface:
        return trial_rows(signature.inputs[0].name)
    if spec.evaluate is None:
        return random_rows(ranged(signature.inputs, spec.inputs), UNSEEN_ROWS)
    evaluate = spec.evaluate
    return read_rows(
        base / evaluate.data,
        signature.inputs,
        label=evaluate.label,
        limit=evaluate.rows,
        refuse_nan=evaluate.refuse_nan,
    )


def _parity(engine: Engine, rows: LabelledRows, expected: Path, file: Path, fixed: int | None) -> dict[str, float]:
    """The largest difference from the source by the way that the rows came in: what a source's rows do to each other is no fault
    of the import."""
    theirs = read_answers(expected)
    try:
        mine = {
            "together": run_rows(engine, rows.inputs),
            "alone": run_rows(engine, rows.take(slice(ALONE_ROWS)).inputs, batch=1),
        }
    except EngineFailure as error:
        if fixed is not None:
            raise BadInput(
                f"works with {fixed} {'row' if fixed == 1 else 'rows'} at a time only",
                where=str(file),
                remedy="export it with a first axis that is free, one row each",
            ) from error
        raise BadInput(
            f"the imported model fails on the rows: {error.what}", where=str(file), remedy="check the export"
        ) from error
    # Answers in the hundreds have fewer digits behind the point: for those the difference is relative to the largest.
    numbers = [value.astype(np.float64) for value in theirs["together"].values() if value.dtype != np.object_]
    scale = max([1.0, *(float(np.abs(value[np.isfinite(value)]).max(initial=0)) for value in numbers)])
    return {way: max_difference(mine[way], theirs[way]) / scale for way in mine}
