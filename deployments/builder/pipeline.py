"""The road of one version: import, prove it the same, compress, evaluate, gate, package."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from cluster.errors import BadInput, EngineFailure, NotFound
from deployments.artifacts.manifest import file_digest
from deployments.artifacts.package import Artifact, write_artifact
from deployments.artifacts.samples import Samples
from deployments.builder.evaluation import gate as gates
from deployments.builder.explaining import check_explained, explain_version
from deployments.builder.page import page
from deployments.builder.profiling import check_left_out, profiled
from deployments.builder.report import IMPORTED, Report, Variant
from deployments.builder.sources.huggingface_models.resolve import resolve as resolve_huggingface
from deployments.builder.sources.importing import ENVIRONMENT, Imported, Progress, import_source
from deployments.builder.sources.mlflow_models.resolve import resolve as resolve_mlflow
from deployments.builder.sources.rows import LabelledRows, check_classes, read_rows
from deployments.builder.spec import BuildSpec
from deployments.builder.steps.graph import run_rows
from deployments.builder.steps.variants import Candidate, VariantBuilder
from deployments.builder.worker import run_worker
from deployments.engines.load import MODEL_FILES, open_engine
from deployments.engines.onnx_external import weights_beside
from deployments.keys.references import holder_of
from deployments.signing.keys import PrivateSigningKey
from deployments.signing.sign import attesting

SAMPLE_ROWS = 8
# How far the same file's answers may lie apart on another CPU: int8 kernels round differently.
TOLERANCES = {"int8": 1e-2, "fp16": 5e-3}
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made: the artifact (None where the gate refused it), its report, and what the gate found broken."""

    artifact: Artifact | None
    report: Report
    broken: tuple[str, ...]


def build(
    spec: BuildSpec,
    *,
    model: str,
    base: Path,
    root: str | Path,
    log: Path,
    progress: Progress,
    keys: Path | None = None,
    signing: PrivateSigningKey | None = None,
) -> Built:
    """Makes a version of `model` from a build section; `base` is the document's folder, `root` where artifacts are kept, `keys`
    where those lie that `seal` may name. It is signed with the key `signing`, where there is one.

    Blocks for seconds to minutes. What frameworks print goes to `log`; `progress` is told each step. Raises BadInput or NotFound
    (the document or a file of it, or a key), NoCapacity (full disk), Unreachable; then nothing is left behind.
    """
    started_s = time.monotonic()
    seal_for = [holder_of(name, folder=keys, base=base) for name in spec.seal]
    with tempfile.TemporaryDirectory(prefix="headrace-build-") as folder:
        work = Path(folder)
        training = _train(spec, base, log, progress)
        asked = spec
        spec, provenance = _resolved(asked, base, work, log, progress)
        imported = import_source(spec, base, work, log, progress)
        source = imported.source | provenance
        check_left_out(spec.profile, imported.signature)
        check_explained(spec.explain, imported.signature)
        learn = _rows_to_learn_from(spec, imported, base)
        _check_labels(spec, imported, learn, base)
        builder = VariantBuilder(spec, imported, learn, work, log, progress)
        candidates = builder.candidates()
        variants = builder.judge(candidates)
        kept = gates.choose(builder.wanted(), variants)
        # An input example is no row that was held out: a profile is of rows that the user gave.
        profile, said = profiled(asked, imported, builder.answers(kept.name) if kept else None)
        background, explained = None, None
        if kept is not None:
            progress("explain")
            engine = open_engine(spec.engine, _file_of(kept, candidates), imported.signature)
            background, explained = explain_version(asked, spec, imported, engine, builder.answers(kept.name))
        data = _data(spec, imported, base) | ({"file": "the input example"} if spec.evaluate and not asked.evaluate else {})
        report = Report(
            model=model,
            task=spec.evaluate.task if spec.evaluate else "classification",
            source=source,
            training=training,
            parity=imported.parity,
            data=data | {"profile": said} | ({"explain": explained.model_dump(mode="json")} if explained else {}),
            variants=tuple(variants),
            chosen=kept.name if kept else None,
            machine=_machine(),
            took_s=round(time.monotonic() - started_s, 1),
        )
        if kept is None:
            return Built(None, report, _why(builder.wanted(), variants))
        progress("package and seal" if seal_for else "package")
        file = _file_of(kept, candidates)
        artifact = write_artifact(
            root,
            model=model,
            engine=spec.engine,
            signature=imported.signature,
            files={MODEL_FILES[spec.engine]: file, **weights_beside(file)},
            samples=_samples(spec, imported, file),
            report=report.model_dump(mode="json"),
            page=page(report),
            profile=profile,
            background=background,
            source=source,
            steps=({"step": "import", "parity": imported.parity}, *kept.steps),
            sample_tolerance=next((value for word, value in TOLERANCES.items() if word in kept.name), TOLERANCE),
            seal_for=seal_for,
            attest=None if signing is None else attesting(signing, report.model_dump(mode="json")),
        )
    return Built(artifact, report, ())


def _train(spec: BuildSpec, base: Path, log: Path, progress: Progress) -> dict[str, Any] | None:
    """Runs the user's training and records what it was made from. Raises BadInput, or NotFound for a data file."""
    if spec.train is None:
        return None
    progress(f"train ({spec.train.function})")
    missing = [name for name in spec.train.data if not (base / name).exists()]
    if missing:
        raise NotFound("no such file", where=str(base / missing[0]), remedy="correct train.data")
    digests = {name: file_digest(base / name) for name in spec.train.data}
    job = {**spec.train.model_dump(include={"function", "args", "seed"}), "code": str((base / spec.train.code).resolve())}
    told = run_worker("sources.train", job, what="training", log=log, environment=ENVIRONMENT, folder=base, show=progress)
    return {**job, "code": spec.train.code, "data": digests, **told}


def _resolved(spec: BuildSpec, base: Path, work: Path, log: Path, progress: Progress) -> tuple[BuildSpec, dict[str, Any]]:
    """The section with a source on this machine, and where that came from, by the source that named it."""
    found, from_mlflow = resolve_mlflow(spec, base, work, log, progress)
    found, from_hub = resolve_huggingface(found, base, work, log, progress)
    told = {"mlflow": from_mlflow, "huggingface": from_hub}
    return found, {name: value for name, value in told.items() if value}


def _rows_to_learn_from(spec: BuildSpec, imported: Imported, base: Path) -> LabelledRows | None:
    if spec.compress.data is None:
        return None
    return read_rows(base / spec.compress.data, imported.signature.inputs, label=spec.compress.label, limit=spec.compress.rows)


def _check_labels(spec: BuildSpec, imported: Imported, learn: LabelledRows | None, base: Path) -> None:
    """Raises BadInput where a label is none of the model's classes, or the model fails on the rows it is judged on."""
    engine = open_engine(spec.engine, imported.file, imported.signature)
    try:
        first = run_rows(engine, imported.rows.take(slice(1)).inputs)
    except EngineFailure as error:
        raise BadInput(
            f"the model fails on the rows: {error.what}",
            where="evaluate.data",
            remedy="see which rows it holds" if spec.evaluate else "set it to a file of real rows: these were drawn at random",
        ) from error
    if spec.evaluate is None or spec.evaluate.task != "classification":
        return
    if imported.rows.labels is not None:
        check_classes(imported.rows.labels, first, f"{base / spec.evaluate.data} column {spec.evaluate.label}")
    if learn is not None and learn.labels is not None:
        check_classes(learn.labels, first, f"{base / str(spec.compress.data)} column {spec.compress.label}")


def _why(wanted: str | None, variants: list[Variant]) -> tuple[str, ...]:
    """Why nothing was kept: what the wanted variant breaks, or for `auto` what the imported model itself breaks."""
    asked = next((one for one in variants if one.name == (wanted or IMPORTED)), None)
    if asked is None:
        return (f"{wanted} could not be made: its pruning was refused",)
    return (f"{asked.name} could not be made: {asked.skipped}",) if asked.skipped else asked.broken


def _file_of(kept: Variant, candidates: list[Candidate]) -> Path:
    return next(candidate.file for candidate in candidates if candidate.name == kept.name)


def _data(spec: BuildSpec, imported: Imported, base: Path) -> dict[str, object]:
    found: dict[str, object] = {"rows": len(imported.rows)}
    if spec.evaluate:
        found |= {"file": spec.evaluate.data, "sha256": file_digest(base / spec.evaluate.data), "label": spec.evaluate.label}
    return found


def _machine() -> dict[str, object]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count() or 0,
        "onnxruntime": ort.__version__,
        "python": platform.python_version(),
    }


def _samples(spec: BuildSpec, imported: Imported, file: Path) -> Samples:
    """Scored as they are replayed: in one batch of their own."""
    inputs = imported.rows.take(slice(SAMPLE_ROWS)).inputs
    return Samples(inputs=inputs, outputs=open_engine(spec.engine, file, imported.signature).score(inputs))
