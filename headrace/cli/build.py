"""`headrace build FILE`: a Model's build section becomes a version, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cluster.commands import RegisterVersion
from cluster.errors import BadInput, HeadraceError
from deployments.build.pipeline import Built, build
from deployments.build.report import Report
from deployments.build.spec import BuildSpec
from headrace.client import ControlClient
from headrace.local.home import read_settings
from headrace.project.documents import ModelFile, load_project

QUALITY = {
    "accuracy": "accuracy",
    "cross_entropy": "cross-entropy",
    "mse": "MSE",
    "agreement": "agreement",
    "max_difference": "max diff",
}

app = typer.Typer(help="Make a version from a trained model.")


@app.command("build")
def build_command(
    file: Annotated[Path, typer.Argument(help="A project file with a Model that has a build section.")],
    model: Annotated[str | None, typer.Option(help="Which Model, where the file has several.")] = None,
    output: Annotated[str | None, typer.Option(help="Only package, into this folder or URI; register nothing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Import, check, evaluate and package a trained model, and register it as the next version.

    Reads FILE's build section: source, inputs, evaluate, gate. A version that breaks its gate is not registered, and the
    exit code is 1.
    """
    screen = Console(stderr=True, quiet=as_json)
    found = _with_build(file, model)
    spec = found.build
    if not isinstance(spec, BuildSpec):
        raise BadInput("has no build section", where=str(file), remedy="add `build:` with a source")
    home = read_settings().home
    home.make()
    log = home.logs / f"build-{found.document.name}.log"
    client = None if output else ControlClient.from_environment()
    with screen.status("build") as status:

        def progress(step: str) -> None:
            status.update(step)
            screen.print(f"  {step}")

        built = build(
            spec,
            model=found.document.name,
            base=found.source.file.parent,
            root=output or home.artifacts,
            log=log,
            progress=progress,
        )
    answer: dict[str, Any] = built.report.model_dump(mode="json")
    if built.artifact:
        answer |= {"artifact_uri": built.artifact.uri, "digest": built.artifact.digest}
        if client:
            with client:
                answer["version"] = _register(client, built, found.document.name)
    if as_json:
        typer.echo(orjson.dumps(answer).decode())
    else:
        _print(Console(), built.report, answer)
    if built.broken:
        raise HeadraceError(
            "the version breaks its gate: " + "; ".join(built.broken),
            where=str(file),
            remedy="nothing was registered; change model or gate",
        )


def _with_build(file: Path, model: str | None) -> ModelFile:
    project = load_project([file])
    if model:
        return project.model(model)
    models = [one for one in project.models if one.build is not None]
    if len(models) != 1:
        names = ", ".join(one.document.name for one in models) or "none"
        raise BadInput(f"{len(models)} Models have a build section: {names}", where=str(file), remedy="name one with --model")
    return models[0]


def _register(client: ControlClient, built: Built, model: str) -> int:
    artifact = built.artifact
    if artifact is None:
        raise ValueError("nothing was packaged")
    request = RegisterVersion(
        model=model,
        artifact_uri=artifact.uri,
        digest=artifact.digest,
        engine=artifact.manifest.engine,
        signature=artifact.manifest.signature,
    )
    return client.register_version(request).version


def _print(screen: Console, report: Report, answer: dict[str, Any]) -> None:
    table = Table(
        title=f"{report.model}: parity with the source {report.parity:.2g}, {report.data['rows']} rows, {report.took_s:.0f} s"
    )
    for column in ("variant", "size", "speed at 1 / 64 / 1024", "p99 at 1", "memory", *QUALITY.values(), ""):
        table.add_column(column, justify="left" if column in ("variant", "") else "right")
    for one in report.variants:
        if one.skipped or one.quality is None:
            table.add_row(one.name, *[""] * (4 + len(QUALITY)), f"skipped: {one.skipped}")
            continue
        numbers = [getattr(one.quality, name) for name in QUALITY]
        table.add_row(
            one.name,
            f"{one.size_bytes / 1000:.0f} kB",
            " / ".join(f"{speed.speedup:.1f}x" for speed in one.speed.values()),
            f"{one.speed['1'].p99_ms:.3f} ms",
            f"{(one.peak_bytes or 0) / 1e6:.0f} MB",
            *("-" if number is None else f"{number:.4g}" for number in numbers),
            "chosen" if one.name == report.chosen else "; ".join(one.broken),
        )
    screen.print(table)
    if "artifact_uri" in answer:
        made = f"version {answer['version']}" if "version" in answer else "not registered"
        screen.print(f"{report.model}: {made}, {answer['artifact_uri']}", soft_wrap=True)
