"""`python -m bench.build [--quick] [--json]`: what compression gives, for an MLP, a small CNN and a regression on real data.

Each example is trained, imported, and built with `compress: auto`, as its document says. Variants take turns with the imported
model on one thread, so the ratio is fair; a figure's reference is the imported model's. The MLP is also imported from Keras and
from ONNX, to compare each import with its own framework's answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.builder.pipeline import Built, build
from deployments.builder.report import IMPORTED, Report
from deployments.builder.spec import BuildSpec, Compress, ModelSource
from headrace.cli.screens.output import answers
from headrace.cli.screens.report import report_table
from headrace.project.documents import load_project

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODELS = {"mlp": "digits/pytorch.yaml", "cnn": "digits_cnn/model.yaml", "regression": "diabetes/model.yaml"}
KERAS = "digits/keras.yaml"
PARITY = "largest difference from the source, lower is better"


def main() -> None:
    parser = argparse.ArgumentParser(description="Size, speed and quality of each variant of three models.")
    parser.add_argument("--quick", action="store_true", help="the same: all of it takes about two minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    screen = Console(stderr=True)
    for name, document in MODELS.items():
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            report = make(name, example(document), Path(folder), screen).report
        if not options.json:
            answers().print(report_table(report))
        tell(options.json, figures(name, report))
    for kind, parity in other_sources(screen):
        if not options.json:
            answers().print(f"the same network from {kind}: within {parity:.2g} of its own framework's answers")
        tell(options.json, [_figure(f"build.{kind}.parity", parity, 1e-5, PARITY)])


def tell(as_json: bool, lines: Iterable[dict[str, Any]]) -> None:
    """Prints one JSON line a figure, where asked to."""
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n" if as_json else "")


def example(document: str) -> BuildSpec:
    """The build section of an example, its code where it is, so that all else may happen in another folder."""
    home = (EXAMPLES / document).parent
    found = load_project([EXAMPLES / document]).models[0].build
    assert isinstance(found, BuildSpec)
    section = found.model_dump(by_alias=True, exclude_none=True)
    for part in (section["train"], section["source"].get("pytorch", {})):
        part["code"] = str((home / part.get("code", ".")).resolve())
    return BuildSpec.model_validate(section)


def make(name: str, spec: BuildSpec, folder: Path, screen: Console) -> Built:
    """Trains and builds one model in `folder`."""
    with screen.status(name) as status:
        return build(
            spec,
            model=name,
            base=folder,
            root=folder / "artifacts",
            log=folder / "build.log",
            progress=lambda step: status.update(f"{name}: {step}"),
        )


def other_sources(screen: Console) -> Iterator[tuple[str, float]]:
    """The network from Keras, then what that became as an ONNX source; each with its import's parity."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        keras = example(KERAS).model_copy(update={"compress": Compress()})
        built = make("keras", keras, Path(folder), screen)
        yield "keras", built.report.parity
        assert built.artifact is not None
        file = str(Path(built.artifact.uri) / "model.onnx")
        onnx = keras.model_copy(update={"train": None, "source": ModelSource(onnx=file)})
        yield "onnx", make("onnx", onnx, Path(folder), screen).report.parity


def figures(model: str, report: Report) -> Iterator[dict[str, Any]]:
    """A line for each figure of each variant: `build.MODEL.VARIANT_FIGURE`; the reference is the imported model's."""
    imported = report.variant(IMPORTED)
    yield _figure(f"build.{model}.parity", report.parity, 1e-5, PARITY)
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
