"""`make models`: builds model files as their makers publish them, and tells whether each answers as its own framework does."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import distributions, version

from rich.console import Console
from rich.table import Table

from bench.models.trying import HERE, PACKAGES, Tried, tried
from headrace.project.documents import ModelFile, load_project


def main() -> None:
    """Exits with 1 where a model that was built answers otherwise than its file, or a build ends in anything but a sentence."""
    parser = argparse.ArgumentParser(description="Builds published model files and compares them with their own frameworks.")
    parser.add_argument("names", nargs="*", help="these models only")
    parser.add_argument("--json", action="store_true", help="one JSON line a model")
    options = parser.parse_args()
    screen = Console(stderr=True)
    found = []
    for document in load_project([HERE / "models.yaml"]).models:
        name = document.document.name
        if options.names and name not in options.names:
            continue
        screen.print(f"[bold]{name}[/]")
        found.append(_in_a_process(document))
        if options.json:
            sys.stdout.write(json.dumps(asdict(found[-1])) + "\n")
    if not options.json:
        Console(width=160).print(table(found))
    sys.exit(any(one.difference is not None and not one.good for one in found))


def table(found: Sequence[Tried]) -> Table:
    """A line a model."""
    shown = Table(title=versions(), caption="difference from plain onnxruntime or torch; rows/s on one thread")
    for column in ("model", "built", "difference", "seconds", "peak MiB of the build", "MiB to serve", "rows/s"):
        shown.add_column(column)
    for one in found:
        if one.difference is None:
            shown.add_row(one.model, one.refused)
            continue
        numbers = (one.peak_bytes / 2**20, (one.serving_bytes or 0) / 2**20, one.rows_per_s or 0)
        word = "yes" if one.good else "WRONG"
        shown.add_row(one.model, word, f"{one.difference:.1e}", f"{one.seconds:.1f}", *(f"{number:,.0f}" for number in numbers))
    return shown


def versions() -> str:
    """What was fetched, and what builds and compares it."""
    fetched = sorted(f"{one.name} {one.version}" for one in distributions(path=[str(PACKAGES)]) if one.name != "pillow")
    return ", ".join([*fetched, *(f"{name} {version(name)}" for name in ("onnxruntime", "torch"))])


def _in_a_process(document: ModelFile) -> Tried:
    """So that one model's memory is not counted for the next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(tried, document).result()


if __name__ == "__main__":
    main()
