"""`headrace leave`: a node leaves its cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.exits import ExitCode
from headrace.cli.screens.output import AsJson, answers, notes, print_json

app = typer.Typer()


@app.command("leave")
def leave(
    within_s: Annotated[
        float, typer.Option("--within", min=1, help="How long that may take, in seconds; Ray ends the node then.")
    ] = 120,
    as_json: AsJson = False,
) -> None:
    """Let this node leave its cluster without a failed call: run it on the node, before the machine or its Ray is ended.

    Ray takes no more work there, Serve starts elsewhere what runs here, and only then ends it here. Returns once nothing is left;
    exits with 1 where something still is when the time is over. Ray ends the node then.

    Example: `headrace leave --within 120`, with RAY_ADDRESS=10.0.0.1:6379
    """
    from headrace.local.ray.leave import leave as leave_cluster

    left = leave_cluster(within_s, lambda line: notes().print(line, soft_wrap=True))
    if as_json:
        print_json({"seconds": left.seconds, "remaining": left.remaining})
    elif left.remaining:
        answers().print(f"after {left.seconds:.1f} s still here: {', '.join(left.remaining)}")
    else:
        answers().print(f"nothing is here any more, after {left.seconds:.1f} s")
    if left.remaining:
        raise typer.Exit(ExitCode.FAILED)
