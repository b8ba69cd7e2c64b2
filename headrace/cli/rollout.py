"""`headrace rollout ...`: moving a model from its stable version to a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.commands.audit import RolloutHistory
from cluster.commands.rollouts import RolloutStatus, RolloutView
from cluster.errors import BadInput
from cluster.rollout.plan import NamedPlan, Plan
from headrace.cli.screens.output import AsJson, answers, print_json, watch, watch_json
from headrace.cli.screens.rollout import shown
from headrace.cli.watch.quality import print_told, tell_lines
from headrace.client import ControlClient
from headrace.project.documents import load_project

app = typer.Typer(
    help="""Replace a model's version live, on evidence.

A rollout sends a rising share of traffic to the candidate, compares it with the stable version, and promotes it or takes it
back by itself. The Model document's `rollout` section holds the plan.

Example: `headrace rollout start digits --version 3`, then `headrace rollout status digits --watch`"""
)

Model = Annotated[str, typer.Argument(help="The model's name.")]


@app.command()
def start(
    model: Model,
    version: Annotated[int | None, typer.Option(min=1, help="Which version; the newest where left out.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Take the plan from this file's Model, this once.")] = None,
    named: Annotated[
        NamedPlan | None,
        typer.Option("--plan", help="All traffic at once: instant judges nothing, blue_green bakes and may still go back."),
    ] = None,
    supersede: Annotated[bool, typer.Option("--supersede", help="End a rollout that is under way.")] = False,
    compatible: Annotated[bool, typer.Option("--compatible", help="Callers bear another signature: more outputs, say.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a rollout of a registered version.

    Example: `headrace rollout start digits --version 2 --supersede`; back at once: `... --version 1 --plan instant`
    """
    if file and named:
        raise BadInput("both --file and --plan give a plan", where="rollout start", remedy="leave one of them out")
    plan: Plan | NamedPlan | None = load_project([file]).model(model).document.rollout if file else named
    with ControlClient.from_environment() as client:
        started = client.start_rollout(model, version, plan=plan, supersede=supersede, compatible=compatible)
        _print(started, as_json)


@app.command()
def status(
    model: Model,
    version: Annotated[int | None, typer.Option(min=1, help="That candidate's rollout; --watch waits for it to begin.")] = None,
    follow: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it until it ends; with --json, a line for each change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rollout under way, or the last one, with its checks in plain words.

    Example: `headrace rollout status digits --watch`; for a script: `... --version 3 --watch --json`
    """

    def look() -> tuple[RolloutStatus, bool]:
        rollout = client.rollout(model) if version is None else _rollout_of(client, model, version)
        return RolloutStatus(rollout=rollout), rollout.ended_s is not None if rollout else version is None

    def words(seen: RolloutStatus) -> RenderableType:
        return shown(seen.rollout) if seen.rollout else f"{model}: no rollout so far"

    def look_in_words() -> tuple[RenderableType, bool]:
        seen, last = look()
        return words(seen), last

    with ControlClient.from_environment() as client:
        if not follow:
            seen, _ = look()
            if as_json:
                print_json(seen)
            else:
                answers().print(words(seen))
        elif as_json:
            watch_json(look)
        else:
            watch(look_in_words)


@app.command()
def pause(model: Model, as_json: AsJson = False) -> None:
    """Hold the rollout at its step: traffic stays split as it is.

    Example: `headrace rollout pause digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.pause_rollout(model), as_json)


@app.command()
def resume(model: Model, as_json: AsJson = False) -> None:
    """Let a paused rollout go on from where it stood.

    Example: `headrace rollout resume digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.resume_rollout(model), as_json)


@app.command()
def promote(model: Model, as_json: AsJson = False) -> None:
    """Make the candidate stable now, whatever its checks say.

    Example: `headrace rollout promote digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.promote(model), as_json)


@app.command()
def abort(model: Model, as_json: AsJson = False) -> None:
    """Take the candidate back now: all traffic returns to the stable version.

    Example: `headrace rollout abort digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.abort(model), as_json)


@app.command()
def label(
    model: Model,
    file: Annotated[Path, typer.Argument(help="Lines of JSON with a key and a label each; - for standard input.")],
    as_json: AsJson = False,
) -> None:
    """Tell what was true of answers given in the rollout under way, for its labels check.

    The key came with the answer: in the header headrace.label_key of a stream's record, in the parameter label_keys over HTTP.
    The same file again counts nothing; of a file that has grown, send the new lines alone. `headrace quality label` is the same,
    at all times, for a model whose document has a `labels` section.

    Example: `headrace rollout label digits labels.jsonl`, of lines like `{"key": "4/2/7/orders/0/1234", "label": 7}`
    """
    print_told(tell_lines(model, str(file)), as_json=as_json)


@app.command()
def history(model: Model, as_json: AsJson = False) -> None:
    """List the model's rollouts and every transition: when, who or which check, and why.

    Example: `headrace rollout history digits`
    """
    with ControlClient.from_environment() as client:
        told = client.rollout_history(model)
    if as_json:
        print_json(told)
    else:
        answers().print(history_told(told))


def _rollout_of(client: ControlClient, model: str, version: int) -> RolloutView | None:
    """The newest rollout of that candidate."""
    rollouts = client.rollout_history(model).rollouts
    return next((rollout for rollout in rollouts if rollout.candidate == version), None)


def _print(rollout: RolloutView, as_json: bool) -> None:
    if as_json:
        print_json(rollout)
    else:
        answers().print(shown(rollout))


def history_told(told: RolloutHistory) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("when (UTC)", "rollout", "event", "by", "why"):
        table.add_column(column)
    for event in told.audit:
        when = f"{datetime.fromtimestamp(event.at_s, UTC):%Y-%m-%d %H:%M:%S}"
        table.add_row(when, str(event.rollout or "-"), event.event, event.actor or "-", Text(why(event.detail)))
    return Group(*(shown(rollout) for rollout in told.rollouts), Text(), table)


def why(detail: Mapping[str, Any]) -> str:
    """What changed in a line, then a line for each reason and each check."""
    checks = [str(check) for check in detail.get("checks", ())]
    reason = str(detail.get("reason", ""))
    if any(check.startswith(reason) for check in checks):
        reason = ""
    rest = {key: value for key, value in detail.items() if key not in ("checks", "reason") and value is not None}
    changed = ", ".join(f"{key} {value}" for key, value in rest.items())
    return "\n".join(line for line in (changed, reason, *checks) if line)
