"""`headrace payloads replay`: a payload log put to a version, also to one that does not serve yet."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cluster.commands.watch.by_hand import HandAct
from cluster.errors import NotFound
from consumers.payload_replay.outcome import ReplayOutcome
from consumers.payload_replay.places import requests_of
from consumers.payload_replay.replay import ReplaySpeed, replay
from deployments.engines.load import load_engine
from deployments.signing.admission import open_admitted
from headrace.by_hand import recorded
from headrace.cli.screens.output import AsJson, answers, print_json, remark
from headrace.client import ControlClient

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Use the log of what was asked and answered."""


@app.command("replay")
def replay_command(
    payloads: Annotated[
        str, typer.Argument(help="A Parquet file of a payload log, or a folder with some (any URI), or topic:NAME.")
    ],
    model: Annotated[str, typer.Option("--model", help="Whose requests, and whose version.")],
    version: Annotated[int, typer.Option("--version", help="The version that is asked; it need not serve.")],
    speed: Annotated[ReplaySpeed, typer.Option(help="As fast as it was recorded, or as fast as it goes.")] = ReplaySpeed.MAX,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="What outputs may differ by; left out, classes are compared (the argmax).")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="So many requests at a time.")] = 1,
    brokers: Annotated[
        str | None, typer.Option(help="Of a topic: HOST:PORT[,HOST:PORT]; left out, those of the model's document.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put recorded requests to a version, and compare its answers with the recorded ones.

    The version is loaded in this process, from the files it was registered with: nothing that serves is asked or slowed.

    A topic is read with the logins of `payloads.kafka` in the model's document, from its beginning to where it ends now.

    Example: `headrace payloads replay /data/payloads --model churn --version 4`; `... topic:churn-payloads --concurrency 8`
    """
    with ControlClient.from_environment() as client:
        found = client.resolve_version(model, version)
    requests = requests_of(payloads, model, found.signature, found.payloads, brokers)
    engine = load_engine(open_admitted(found.artifact_uri, found.digest, model))
    with recorded(HandAct.PAYLOADS, remark, model=model, versions=(version,), digest=found.digest) as act:
        outcome = replay(
            requests,
            engine,
            model,
            version,
            speed=speed,
            tolerance=tolerance,
            concurrency=concurrency,
            limits=found.outputs,
        )
        act.came_to(rows=outcome.rows)
    if not outcome.requests:
        raise NotFound(f"it holds no request to {model}", where=payloads, remedy="name the log of that model")
    if as_json:
        print_json(outcome)
    else:
        answers().print(_table(outcome))


def _table(outcome: ReplayOutcome) -> Table:
    table = Table("", f"{outcome.model} version {outcome.version}")
    table.add_row("requests", f"{outcome.requests:,} of {outcome.rows:,} rows in {outcome.seconds:.1f} s")
    table.add_row("rows answered the same", f"{outcome.same:,}")
    table.add_row("rows answered differently", f"{outcome.different:,}")
    table.add_row("rows that failed", f"{outcome.errors:,}" + "".join(f", {n:,} {why}" for why, n in outcome.reasons.items()))
    table.add_row("rows that failed then and do not now", f"{outcome.answered_errors:,}")
    table.add_row(
        "latency, ms",
        f"p50 {outcome.p50_ms:.2f}, p90 {outcome.p90_ms:.2f}, p99 {outcome.p99_ms:.2f}, most {outcome.max_ms:.2f}",
    )
    return table
