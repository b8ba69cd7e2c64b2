"""Builds one published model file and compares it with its own framework.

A figure of difference is taken on rows of the model's own kind, over all outputs, from the packaged version as a replica loads it
and the file as it was published, in plain onnxruntime (one row at a time, where it takes no more) or plain torch.
"""

from __future__ import annotations

import importlib
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from cluster.errors import HeadraceError
from deployments.builder.pipeline import Built, build
from deployments.builder.spec import BuildSpec, PytorchSource
from deployments.engines.load import load_engine
from headrace.project.documents import ModelFile

HERE = Path(__file__).resolve().parent
FETCHED = HERE.parents[1] / ".venv-models"
PACKAGES, ROWS = FETCHED / "packages", FETCHED / "rows"
NEAR = 1e-5
# Tensors of the files whose rows lie along another axis than the first.
ALONG = {"state": 1, "stateN": 1}
Arrays = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one model. `difference` is relative where answers exceed 1; `peak_bytes` is the largest process of the
    build, `rows_per_s` the best of the measured batch sizes, on one thread."""

    model: str
    refused: str = ""
    difference: float | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    serving_bytes: int | None = None
    rows_per_s: float | None = None
    unmeasured: Mapping[str, str] | None = None

    @property
    def good(self) -> bool:
        """Whether it was built and answers alike."""
        return self.difference is not None and self.difference <= NEAR


def tried(document: ModelFile) -> Tried:
    """Makes its rows, builds it, and compares the answers."""
    sys.path.append(str(PACKAGES))  # Pillow
    name, spec = document.document.name, document.build
    assert isinstance(spec, BuildSpec)
    rows: Arrays = importlib.import_module("bench.models.rows").MAKERS[name]()
    ROWS.mkdir(parents=True, exist_ok=True)
    np.savez(ROWS / f"{name}.npz", **rows)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-models-") as folder:
        root = Path(folder)
        try:
            built = build(spec, model=name, base=HERE, root=root / "made", log=root / "log", progress=lambda _: None)
        except HeadraceError as error:
            return Tried(name, str(error))
        seconds = time.monotonic() - started_s
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return _compared(built, spec, rows, seconds, peak)


def _compared(built: Built, spec: BuildSpec, rows: Arrays, seconds: float, peak: int) -> Tried:
    name = built.report.model
    if built.artifact is None:
        return Tried(name, "; ".join(built.broken), seconds=seconds)
    mine = load_engine(Path(built.artifact.uri)).score(dict(rows))
    pytorch = spec.source.pytorch
    theirs = _by_torch(pytorch, rows) if pytorch else _by_onnxruntime(HERE / spec.source.file, rows, spec.constants, list(mine))
    kept = built.report.variant(str(built.report.chosen))
    rates = [speed.rows_per_s for speed in kept.speed.values()]
    return Tried(
        name,
        difference=_difference(list(mine.values()), theirs),
        seconds=seconds,
        peak_bytes=peak,
        serving_bytes=kept.peak_bytes,
        rows_per_s=max(rates, default=None),
        unmeasured=kept.unmeasured,
    )


def _by_onnxruntime(file: Path, rows: Arrays, constants: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    fixed = all(item.shape[:1] == [1] for item in session.get_inputs())
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    given = {
        item.name: np.array(constants[item.name], types[item.type]) for item in session.get_inputs() if item.name in constants
    }
    count = len(next(iter(rows.values())))
    batches = [slice(at, at + 1) for at in range(count)] if fixed else [slice(count)]
    parts = []
    for batch in batches:
        feed = {name: np.moveaxis(value[batch], 0, ALONG.get(name, 0)) for name, value in rows.items()}
        found = session.run(list(names), feed | given)
        turned = [np.moveaxis(value, ALONG.get(name, 0), 0) for name, value in zip(names, found, strict=True)]
        # Of a file that takes one row, an answer may have no axis for it.
        parts.append([value[None] if fixed and len(value) != 1 else value for value in turned])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _by_torch(source: PytorchSource, rows: Arrays) -> list[Any]:
    import torch

    module, _, name = source.class_.partition(":")
    network = getattr(importlib.import_module(f"bench.models.{module}"), name)(**source.args)
    state = torch.load(HERE / source.state_dict, map_location="cpu", weights_only=True)
    network.load_state_dict(state[source.state_dict_key] if source.state_dict_key else state)
    with torch.no_grad():
        return [network.eval()(*(torch.from_numpy(value) for value in rows.values())).numpy()]


def _difference(mine: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest, relative to the largest answer of its output where that exceeds 1."""
    worst = 0.0
    for own, other in zip(mine, theirs, strict=True):
        assert own.shape == other.shape
        worst = max(worst, float(np.abs(own - other).max()) / max(1.0, float(np.abs(other).max())))
    return worst
