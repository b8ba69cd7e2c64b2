"""Builds in this process: in which one a model is imported or compressed does not matter to what comes out, but to the time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import BadInput, HeadraceError
from deployments.builder.pipeline import Built, build
from deployments.builder.spec import BuildSpec
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine


def here(step: str, job: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """A worker's step, in this process; what would be measured is made up."""
    if step == "evaluation.measure":
        speed = {str(batch): {"rows_per_s": 1.0, "p50_ms": 1.0, "p99_ms": 1.0, "speedup": 1.0} for batch in (1, 64, 1024)}
        return {
            "speed": dict.fromkeys(job["files"], speed),
            "unmeasured": {name: {} for name in job["files"]},
            "peak_bytes": dict.fromkeys(job["files"], 1),
        }
    found: dict[str, Any] = importlib.import_module(f"deployments.builder.{step}").step(dict(job))
    return found


def steps_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker's step in this process."""
    for module in (
        "sources.importing",
        "steps.variants",
        "sources.mlflow_models.resolve",
        "sources.huggingface_models.resolve",
    ):
        monkeypatch.setattr(f"deployments.builder.{module}.run_worker", here)


@pytest.fixture
def builds_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every step of a build runs in this process, and nothing is measured."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # read when keras is first imported
    steps_here(monkeypatch)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("user_"):  # the modules that tests write for their classes
            del sys.modules[name]


def run(folder: Path, section: Mapping[str, Any], *, said: list[str] | None = None, model: str = "made") -> Built:
    """Builds into `folder`/artifacts; `said` collects what a user is told."""
    spec = BuildSpec.model_validate(section)
    tell = said.append if said is not None else lambda _: None
    return build(spec, model=model, base=folder, root=folder / "artifacts", log=folder / "log", progress=tell)


def answer(built: Built, **inputs: Any) -> dict[str, Array]:
    """What the packaged version, loaded as a replica loads it, answers."""
    assert built.artifact is not None, built.broken
    engine = load_engine(Path(built.artifact.uri))
    datatypes = {spec.name: spec.datatype.value for spec in engine.signature.inputs}
    numpy = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32, "BYTES": object}
    return engine.score({name: np.array(value, numpy[datatypes[name]]) for name, value in inputs.items()})


def refused(folder: Path, section: Mapping[str, Any], says: str, kind: type[HeadraceError] = BadInput) -> HeadraceError:
    """The build fails with that error, and leaves no artifact."""
    with pytest.raises(kind, match=says) as caught:
        run(folder, section)
    assert not (folder / "artifacts").exists()
    return caught.value
