"""`headrace explain MODEL --row FILE`: why a version answers a row as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from cluster.commands.watch.by_hand import HandAct
from cluster.errors import BadInput, NotFound
from deployments.artifacts.background import read_background
from deployments.artifacts.manifest import MANIFEST, file_digest, read_manifest
from deployments.artifacts.version_files import VersionFiles
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from deployments.engines.port import gradients_of
from deployments.explain.asking import read_options
from deployments.explain.explaining import explain_rows
from deployments.explain.form import ExplainMethod, ExplainScale, Explanation
from deployments.explain.page import explanation_page
from deployments.signing.admission import open_admitted
from headrace.by_hand import recorded
from headrace.cli.explain.row_file import read_row
from headrace.cli.explain.served import served_explanation
from headrace.cli.explain.table import explanation_json, shown_explanation
from headrace.cli.models import version_of
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.client import ControlClient

app = typer.Typer(help="Say why a version answers a row as it does.")


@app.command("explain")
def explain_command(
    model: Annotated[str, typer.Argument(help="The model's name; or the folder of an artifact, which needs no service.")],
    row: Annotated[Path, typer.Option(help="The row: JSON with a field per input, an inference request, .npz or Parquet.")],
    version: Annotated[int | None, typer.Option(help="The version; the newest where left out.")] = None,
    at: Annotated[int, typer.Option(min=0, help="Which row of the file, from 0 on.")] = 0,
    method: Annotated[ExplainMethod, typer.Option(help="How it is computed.")] = ExplainMethod.AUTO,
    output: Annotated[str | None, typer.Option(help="The output to explain; the first of scores where left out.")] = None,
    label: Annotated[str | None, typer.Option("--class", help="The class to explain; the row's own where left out.")] = None,
    scale: Annotated[ExplainScale | None, typer.Option(help="Log-odds for class probabilities where left out.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Features swapped as one, NAME=FEATURE,FEATURE; again for more.")
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="The side in pixels of the squares that an image is cut into.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="JSON with a field per input: the row to compare with.")] = None,
    evaluations: Annotated[int, typer.Option(help="How many rows may be scored.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
    deadline: Annotated[float | None, typer.Option(help="Seconds; what is not computed by then is left out.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many features are shown.")] = 20,
    html: Annotated[Path | None, typer.Option(help="Also write a page with bars, and pictures of images, to this file.")] = None,
    picture: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of an image that lies flat in its input.")] = None,
    served: Annotated[
        bool, typer.Option("--served", help="Ask the running service, whose stable version explains where none is named.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say why a version answers a row as it does: how much each feature adds to its answer, and within what error.

    The version is loaded in this process, from the files it was registered with: nothing that serves is asked or slowed. With
    `--served` the service explains, in the time that its users leave over.

    Example: `headrace explain churn --row customer.json --html why.html`
    """
    asked: dict[str, Any] = {"method": method, "evaluations": evaluations, "seed": seed, "groups": _groups(group or [])}
    asked |= {"output": output, "class": label, "scale": scale, "blocks": blocks, "deadline_s": deadline}
    if baseline is not None:
        asked["baseline"] = _json_object(baseline)
    size = _size(picture) if picture else None
    if served:
        with ControlClient.from_environment() as client:
            called, found, rows = served_explanation(client, model, version, row, at, asked)
    else:
        called, found, rows = _loaded_explanation(model, version, row, at, asked)
    values = {name: value[0] for name, value in rows.items()}
    if html is not None:
        html.write_text(explanation_page(f"{called}: why", found, values, size), encoding="utf-8")
    if as_json:
        print_json({"model": called, **explanation_json(found)})
        return
    answers().print(shown_explanation(found, values, top))
    if html is not None:
        notes().print(f"page: {html}", soft_wrap=True)


def _loaded_explanation(
    model: str, version: int | None, row: Path, at: int, asked: dict[str, Any]
) -> tuple[str, Explanation, dict[str, Array]]:
    """What is explained, why, and the row, [1, ...] by input."""
    files, called, number = _version_files(model, version)
    engine = load_engine(files)
    options = read_options(asked, engine.signature)
    rows = read_row(row, engine.signature, at)
    background, gradients = read_background(files), gradients_of(engine)
    about: dict[str, Any] = {"model": model, "versions": number} if number else {"name": called}
    with recorded(HandAct.EXPLAIN, remark, rows=1, **about):
        (found,) = explain_rows(engine.score, rows, engine.signature, background, options, gradients=gradients)
    return called, found, rows


def _version_files(model: str, version: int | None) -> tuple[VersionFiles, str, tuple[int, ...]]:
    """The version's files, what it is called, and its number, where it has one."""
    folder = Path(model).absolute()
    if (folder / MANIFEST).exists():
        digest = file_digest(folder / MANIFEST)
        # Asked of as any other.
        return open_admitted(str(folder), digest, read_manifest(folder).model), folder.resolve().parent.name, ()
    with ControlClient.from_environment() as client:
        one = version_of(client.model(model), version)
    return open_admitted(one.artifact_uri, one.digest, model), f"{model} version {one.version}", (one.version,)


def _groups(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in given:
        name, equals, members = item.partition("=")
        if not name or not equals or not members:
            raise BadInput("is no group", where=f"--group {item}", remedy="write NAME=FEATURE,FEATURE")
        found[name] = _features(members)
    return found


def _features(members: str) -> list[str]:
    """`a,image[3,5]` as its two features: a comma in brackets parts no features."""
    found, depth = [""], 0
    for letter in members:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


def _size(picture: str) -> tuple[int, int]:
    height, _, width = picture.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise BadInput("is no size", where=f"--picture {picture}", remedy="write HEIGHTxWIDTH, 28x28 for one")
    return int(height), int(width)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read_bytes())
    except OSError as error:
        raise NotFound("can't be read", where=str(file), remedy="name a JSON file") from error
    except orjson.JSONDecodeError as error:
        raise BadInput(f"is no JSON: {error}", where=str(file), remedy="write an object with a field per input") from error
    if not isinstance(found, dict):
        raise BadInput("is no object", where=str(file), remedy="write an object with a field per input")
    return found
