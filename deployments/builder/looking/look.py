"""Worker: reads a model file behind the fence, by its own library, and answers with what it says of itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from deployments.builder.looking.seen import Seen
from deployments.builder.sources.tables.sandbox import enclose
from deployments.builder.worker import serve

# Each kind's module, which imports its library.
MODULES = {
    "onnx": "onnx_file",
    "pytorch": "torch_files",
    "pt2": "torch_files",
    "keras": "keras_files",
    "sklearn": "estimators",
    "xgboost": "estimators",
    "lightgbm": "estimators",
    "catboost": "estimators",
}


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, kind. Answers with a `Seen`. Raises BadInput for a damaged file, or one that would run code."""
    module = importlib.import_module(f"deployments.builder.looking.{MODULES[job['kind']]}")
    seen: Seen = getattr(module, f"look_{job['kind']}")(Path(job["file"]))
    return seen.model_dump(mode="json")


if __name__ == "__main__":
    enclose()
    serve(step)
