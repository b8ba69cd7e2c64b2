"""`headrace drift`: whether rows still look like those that a version was built with, and clearing alarms."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.commands.watch.drift import ClearDrift
from headrace.cli.screens.drift import shown_drift
from headrace.cli.screens.output import AsJson, answers, notes, print_json
from headrace.client import ControlClient

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """See whether rows still look like those a version was built with, and clear alarms."""


@app.command()
def status(
    model: Annotated[str, typer.Argument(help="Whose rows; left out, those of all models.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show alarms, since when they stand, and how rows are now beside the profile.

    Each feature has its rows in the profile and the last ones as bars over the same bins. An alarm stands until it is cleared.

    Example: `headrace drift status churn`
    """
    with ControlClient.from_environment() as client:
        seen = client.drift(model)
    if as_json:
        print_json(seen)
    else:
        answers().print(shown_drift(seen))


@app.command()
def clear(
    model: Annotated[str, typer.Argument(help="Whose alarms.")],
    feature: Annotated[str, typer.Option(help="Only this feature's; left out, all of them.")] = "",
    version: Annotated[int | None, typer.Option(help="Only this version's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Clear alarms: what they were about is watched afresh, and raises another where it goes on.

    Example: `headrace drift clear churn --feature age`
    """
    with ControlClient.from_environment() as client:
        done = client.clear_drift(ClearDrift(model=model, feature=feature, version=version))
    if as_json:
        print_json(done)
    else:
        notes().print(f"{model}: {done.cleared} {'alarm' if done.cleared == 1 else 'alarms'} cleared")
