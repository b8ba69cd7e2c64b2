"""`headrace scale MODEL N`: replicas by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.screens.output import AsJson, notes, print_json
from headrace.client import ControlClient

app = typer.Typer()


@app.command()
def scale(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    replicas: Annotated[int, typer.Argument(min=0, help="How many replicas each of its serving versions shall have.")],
    as_json: AsJson = False,
) -> None:
    """Set the replicas of a model whose document says `scaling: manual`.

    The number stays until somebody changes it: with this command, in the document, or by Ray Serve's own ways, which are its
    config and the REST API at the dashboard's address (`POST /api/v1/applications/APP/deployments/DEPLOYMENT/scale`). The
    dashboard's pages only show it. The controller never undoes it.

    Example: `headrace scale digits 4`
    """
    with ControlClient.from_environment() as client:
        client.scale(model, replicas)
    if as_json:
        print_json({"model": model, "replicas": replicas})
    else:
        notes().print(f"{model}: {replicas} replicas; follow it with `headrace status --watch`")
