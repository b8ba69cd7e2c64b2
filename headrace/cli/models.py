"""`headrace models`: the versions there are."""

from __future__ import annotations

from datetime import UTC, datetime

import typer
from rich.table import Table

from cluster.commands.models import ModelView
from cluster.commands.versions import VersionView
from cluster.errors import NotFound
from headrace.cli.screens.output import AsJson, answers, print_json
from headrace.client import ControlClient

app = typer.Typer()


@app.command("models")
def models(as_json: AsJson = False) -> None:
    """List the models and their versions.

    Example: `headrace models`
    """
    with ControlClient.from_environment() as client:
        found = client.status().models
    if as_json:
        print_json({"models": [model.model_dump(mode="json") for model in found]})
        return
    table = Table("model", "version", "role", "engine", "made", "artifact")
    for model in found:
        for version in model.versions:
            table.add_row(
                model.name, str(version.version), version.role, version.engine, day(version.created_s), version.artifact_uri
            )
    answers().print(table)


def versions_of(view: ModelView, number: int | None) -> list[VersionView]:
    """The version of that number, or all of the model. Raises NotFound where there is none."""
    found = [one for one in view.versions if number in (None, one.version)]
    if not found:
        known = ", ".join(str(one.version) for one in view.versions) or "none"
        raise NotFound(f"no version {'' if number is None else number}".strip(), where=view.name, remedy=f"its versions: {known}")
    return found


def version_of(view: ModelView, number: int | None) -> VersionView:
    """The version of that number, or the newest. Raises NotFound."""
    return max(versions_of(view, number), key=lambda one: one.version)


def day(at_s: float) -> str:
    """A moment as people write it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
