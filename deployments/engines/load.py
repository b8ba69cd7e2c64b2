"""From an artifact's directory to an engine that is proven to compute what its build computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cluster.errors import BadArtifact, EngineFailure
from cluster.signature import Signature
from deployments.artifacts.manifest import SAMPLES, verify
from deployments.artifacts.samples import read_samples
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine

MODEL_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}


def load_engine(artifact_dir: Path, *, threads: int = 1, gpus: float = 0) -> Engine:
    """Verifies the artifact's digests, loads its engine, and replays its sample rows.

    Blocks for seconds. `threads` is how many the engine computes with, `gpus` the replica's share of one. Raises BadArtifact
    where a file is damaged, the model can't be loaded, or the answers are not those that the build recorded.
    """
    manifest = verify(artifact_dir)
    file = artifact_dir / model_file(manifest.engine, str(artifact_dir))
    engine = open_engine(manifest.engine, file, manifest.signature, threads=threads, gpus=gpus)
    _replay(engine, artifact_dir, manifest.sample_tolerance)
    return engine


def model_file(engine: str, where: str) -> str:
    """The name of the model file that an engine reads. Raises BadArtifact for an unknown engine."""
    if engine not in MODEL_FILES:
        raise BadArtifact(f"engine {engine!r} is unknown", where=where, remedy=f"use {' or '.join(MODEL_FILES)}")
    return MODEL_FILES[engine]


def open_engine(engine: str, file: Path, signature: Signature, *, threads: int = 1, gpus: float = 0) -> Engine:
    """Loads a model file without the checks of an artifact. Raises BadArtifact."""
    # Many that may load an engine load one kind or none: gateways, the controller.
    if engine == "onnx":
        from deployments.engines.onnx import OnnxEngine

        return OnnxEngine(file, signature, threads=threads, gpus=gpus)
    try:
        from deployments.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        raise BadArtifact(
            f"engine torch needs {error.name}", where=str(file), remedy="pip install 'headrace[torch]' there"
        ) from error
    return TorchEngine(file, signature, threads=threads, gpus=gpus)


def _replay(engine: Engine, artifact_dir: Path, tolerance: float) -> None:
    where = str(artifact_dir / SAMPLES)
    samples = read_samples(artifact_dir)
    try:
        answers = engine.score(samples.inputs)
    except EngineFailure as error:
        raise BadArtifact(
            f"the version fails on its own sample rows: {error.what}", where=where, remedy="build it again"
        ) from error
    for spec in engine.signature.outputs:
        expected = samples.outputs.get(spec.name)
        if expected is None or not same_answers(answers[spec.name], expected, tolerance):
            raise BadArtifact(
                f"output {spec.name} of the sample rows is {_difference(answers, samples.outputs, spec.name)}",
                where=where,
                remedy="this machine computes other answers than the build did: build it again for it",
            )


def same_answers(answers: Array, expected: Array, tolerance: float) -> bool:
    """Whether two outputs are equal, floating-point ones within `tolerance`, absolute and relative."""
    if answers.shape != expected.shape or answers.dtype != expected.dtype:
        return False
    if np.issubdtype(expected.dtype, np.floating):
        return bool(np.allclose(answers, expected, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(answers, expected))


def _difference(answers: Mapping[str, Array], expected: Mapping[str, Array], name: str) -> str:
    if name not in expected:
        return "not recorded"
    mine, theirs = answers[name], expected[name]
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return f"{mine.dtype} {list(mine.shape)}, recorded as {theirs.dtype} {list(theirs.shape)}"
    if np.issubdtype(theirs.dtype, np.floating):
        return f"off by up to {float(np.max(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)))):.3g}"
    return f"different in {int(np.sum(mine != theirs))} places"
