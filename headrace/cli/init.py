"""`headrace init FILE`: a Model document for a model file, with what the file says filled in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import BadInput, Conflict, HeadraceError, NotFound
from cluster.versions import check_name
from deployments.builder.looking.describe import describe
from headrace.cli.screens.output import AsJson, answers, notes, print_json
from headrace.local.home import read_settings
from headrace.project.documents import load_project
from headrace.project.new_document import marks, new_document

app = typer.Typer()


@app.command("init")
def init(
    file: Annotated[Path, typer.Argument(help="A model file; or the folder of a SavedModel, of MLflow or of transformers.")],
    name: Annotated[str | None, typer.Option(help="The model's name; after the file where left out.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The document to write.")] = Path("model.yaml"),
    as_json: AsJson = False,
) -> None:
    """Look at a model file and write a Model document for it: source, names, datatypes, shapes.

    What the file does not say is marked FILL IN. The file is read in a process of its own, and a pickle not at all.

    Example: `headrace init churn.onnx -o churn.yaml`
    """
    if output.exists():
        raise Conflict("is there already", where=str(output), remedy="name another with -o, or remove it first")
    if not output.absolute().parent.is_dir():
        raise NotFound("no such folder", where=str(output.absolute().parent), remedy="make it, or name another with -o")
    home = read_settings().home
    home.make()
    kind, seen = describe(file.absolute(), home.logs / "init.log")
    called, unsure = (check_name(name, what="model"), "") if name else _name(file)
    path = os.path.relpath(file.absolute(), output.absolute().parent)
    text = new_document(called, path, kind, seen, name_unsure=unsure)
    output.write_text(text, encoding="utf-8")
    try:
        load_project([output])
    except HeadraceError:
        output.unlink()  # what the project would not take is of no use to anyone
        raise
    left = marks(text)
    if as_json:
        print_json({"document": str(output), "name": called, "source": kind.source, "to_fill_in": left})
        return
    answers().print(f"{output}: model {called} from {file} ({kind.source})", soft_wrap=True)
    todo = (
        f"{left} {'place' if left == 1 else 'places'} to fill in: look for FILL IN" if left else f"next: headrace build {output}"
    )
    notes().print(f"  {todo}", soft_wrap=True)


def _name(file: Path) -> tuple[str, str]:
    """A name after the file, and what is to be filled in where none could be made."""
    stem = file.absolute().name if file.is_dir() else file.stem
    made = re.sub(r"[^A-Za-z0-9_.]+", "-", stem).strip("-._")[:63]
    try:
        return check_name(made, what="model"), ""
    except BadInput:
        return "my-model", "the model's name"
