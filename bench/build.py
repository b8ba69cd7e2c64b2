"""`python -m bench.build [--quick] [--json]`: what compression gives, for an MLP, a small CNN and a regression on real data.

Each model is trained, imported, and built with `compress: auto`. Variants take turns with the imported model on one thread, so
the ratio is fair; a figure's reference is the imported model's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.build.pipeline import build
from deployments.build.report import IMPORTED, Report
from deployments.build.spec import BuildSpec
from headrace.cli.report_screen import report_table

HERE = Path(__file__).resolve().parent.parent
IMAGE = {"name": "image", "datatype": "FP32", "shape": [-1, 784]}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {
        "train": {"function": "examples.digits.train:fit", "args": {"out": "out", "epochs": 20}},
        "source": {"pytorch": {"state_dict": "out/model.pth", "class": "examples.digits.network:Digits"}},
        "inputs": [IMAGE],
        "evaluate": {"data": "test.npz", "label": "label"},
        "compress": {"method": "auto", "data": "train.npz", "label": "label"},
    },
    "cnn": {
        "train": {"function": "examples.digits_cnn.train:fit", "args": {"out": "out", "epochs": 4}},
        "source": {"pytorch": {"state_dict": "out/model.pth", "class": "examples.digits_cnn.train:SmallCnn"}},
        "inputs": [IMAGE],
        "evaluate": {"data": "out/test.npz", "label": "label"},
        "compress": {"method": "auto", "data": "out/train.npz", "label": "label"},
    },
    "regression": {
        "train": {"function": "examples.diabetes.train:fit", "args": {"out": "out", "epochs": 60}},
        "source": {"pytorch": {"state_dict": "out/model.pth", "class": "examples.diabetes.train:Progression"}},
        "inputs": [{"name": "patient", "datatype": "FP32", "shape": [-1, 10]}],
        "evaluate": {"data": "out/test.npz", "label": "progression", "task": "regression"},
        "compress": {"method": "auto", "data": "out/train.npz", "label": "progression"},
    },
}
QUICK = ("mlp", "regression")


def main() -> None:
    parser = argparse.ArgumentParser(description="Size, speed and quality of each variant of three models.")
    parser.add_argument("--quick", action="store_true", help="without the CNN: under five minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    screen = Console(stderr=True)
    for name in QUICK if options.quick else MODELS:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            report = measure(name, Path(folder), screen)
        if not options.json:
            Console().print(report_table(report))
        for line in figures(name, report):
            sys.stdout.write(json.dumps(line) + "\n" if options.json else "")


def measure(name: str, folder: Path, screen: Console) -> Report:
    """Trains and builds one model in `folder`."""
    section = json.loads(json.dumps(MODELS[name]))
    for part in (section["train"], section["source"]["pytorch"]):
        part["code"] = str(HERE)
    with screen.status(name) as status:
        built = build(
            BuildSpec.model_validate(section),
            model=name,
            base=folder,
            root=folder / "artifacts",
            log=folder / "build.log",
            progress=lambda step: status.update(f"{name}: {step}"),
        )
    return built.report


def figures(model: str, report: Report) -> Iterator[dict[str, Any]]:
    """A line for each figure of each variant: `build.MODEL.VARIANT_FIGURE`; the reference is the imported model's."""
    imported = report.variant(IMPORTED)
    yield _figure(f"build.{model}.parity", report.parity, 1e-5, "largest difference from the source, lower is better")
    for one in report.variants:
        if one.skipped or one.quality is None or imported.quality is None:
            continue
        head = f"build.{model}.{one.name}"
        yield _figure(f"{head}.size", one.size_bytes, imported.size_bytes, "bytes, lower is better")
        for batch, speed in one.speed.items():
            plain = imported.speed[batch].rows_per_s
            yield _figure(f"{head}.batch{batch}", plain * speed.speedup, plain, "rows/s")
        for name in ("accuracy", "mse"):
            mine, theirs = getattr(one.quality, name), getattr(imported.quality, name)
            if mine is not None and theirs is not None:
                yield _figure(
                    f"{head}.{name}", mine, theirs, "share of rows" if name == "accuracy" else "squared error, lower is better"
                )


def _figure(name: str, value: float, reference: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "reference": reference, "ratio": value / reference if reference else None, "unit": unit}


if __name__ == "__main__":
    main()
