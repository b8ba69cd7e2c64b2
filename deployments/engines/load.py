"""From a version's files to an engine that is proven to compute what its build computed."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cluster.errors import BadArtifact, EngineFailure
from cluster.signature import Signature
from deployments.artifacts.manifest import DESCRIBING, SAMPLES
from deployments.artifacts.samples import read_samples
from deployments.artifacts.version_files import VersionFiles, files_of
from deployments.engines.datatypes import Array
from deployments.engines.model_bytes import ModelBytes, told
from deployments.engines.port import Engine

MODEL_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}


def load_engine(version: Path | VersionFiles, *, threads: int = 1, gpus: float = 0) -> Engine:
    """Verifies a version's files, loads its engine from the very bytes that were verified, and replays its sample rows.

    Blocks for seconds. `threads` is how many the engine computes with, `gpus` the replica's share of one. Raises BadArtifact
    where a file is damaged, the model can't be loaded, or the answers are not those that the build recorded; where it is sealed,
    Forbidden where no key of this machine opens it, Unreachable where the service that holds the key is away.
    """
    files = files_of(version)
    manifest = files.manifest
    names = _engine_files(files)
    for name in files.names:
        if name not in {SAMPLES, *names}:
            files.check(name)
    engine = open_engine(manifest.engine, _in_memory(files, *names), manifest.signature, threads=threads, gpus=gpus)
    _replay(engine, files, manifest.sample_tolerance)
    _give_memory_back()
    return engine


def _give_memory_back() -> None:
    """What loading has freed goes to the system: glibc may keep up to the model's size of it, as its heap happens to lie."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _engine_files(files: VersionFiles) -> list[str]:
    """The names of what the engine reads: the model file first, then what lies beside it, its external data."""
    first = model_file(files.manifest.engine, files.where)
    return [first, *(name for name in files.names if name != first and name not in DESCRIBING)]


def _in_memory(files: VersionFiles, first: str, *beside: str) -> ModelBytes:
    return ModelBytes(
        pour=partial(files.pour, first),
        read=partial(files.read, first),
        where=f"{files.where}/{first}",
        beside={name: files.read(name) for name in beside},
        sealed=files.manifest.seal is not None,
    )


def model_file(engine: str, where: str) -> str:
    """The name of the model file that an engine reads. Raises BadArtifact for an unknown engine."""
    if engine not in MODEL_FILES:
        raise BadArtifact(f"engine {engine!r} is unknown", where=where, remedy=f"use {' or '.join(MODEL_FILES)}")
    return MODEL_FILES[engine]


def open_engine(engine: str, file: Path | ModelBytes, signature: Signature, *, threads: int = 1, gpus: float = 0) -> Engine:
    """Loads a model file without the checks of an artifact. Raises BadArtifact."""
    # Many that may load an engine load one kind or none: gateways, the controller.
    if engine == "onnx":
        from deployments.engines.onnx import OnnxEngine

        return OnnxEngine(file, signature, threads=threads, gpus=gpus)
    try:
        from deployments.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        raise BadArtifact(
            f"engine torch needs {error.name}", where=told(file), remedy="pip install 'headrace[torch]' there"
        ) from error
    return TorchEngine(file, signature, threads=threads, gpus=gpus)


def _replay(engine: Engine, files: VersionFiles, tolerance: float) -> None:
    where = f"{files.where}/{SAMPLES}"
    samples = read_samples(files)
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
