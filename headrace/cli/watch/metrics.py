"""`headrace metrics`: what `/metrics` tells Prometheus."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.screens.output import AsJson, answers, print_json
from headrace.client import ControlClient

app = typer.Typer()


@app.command("metrics")
def metrics(
    as_json: AsJson = False,
    of: Annotated[str, typer.Option("--of", help="only metrics whose names hold this, such as stream_lag")] = "",
) -> None:
    """Show all metrics as they are now, summed over the cluster.

    Prometheus gets the same at /metrics of the gateway; docs/metrics.md says what each one means.

    Example: `headrace metrics --of stream`
    """
    # Some 100 ms to import, which no other command needs.
    from deployments.observe.exposition import exposed

    with ControlClient.from_environment() as client:
        seen = client.metrics()
    seen = seen.model_copy(
        update={
            "values": tuple(one for one in seen.values if of in one[0]),
            "histograms": tuple(one for one in seen.histograms if of in one[0]),
        }
    )
    if as_json:
        print_json(seen.model_dump(mode="json"))
        return
    text, _ = exposed(seen, "")
    answers().print(text.decode(), end="", markup=False, highlight=False, soft_wrap=True)
