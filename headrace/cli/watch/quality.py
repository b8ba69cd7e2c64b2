"""`headrace quality status|label|clear`: how right a model's versions are, by labels that come late."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Annotated

import typer

from cluster.commands.labels import LabelsTold
from cluster.errors import NotFound
from headrace.cli.screens.output import AsJson, answers, print_json
from headrace.cli.screens.quality import shown_quality
from headrace.client import ControlClient
from headrace.label_lines import tell, tell_all

app = typer.Typer(
    help="""How right a model's versions are, by labels that come late.

Its document says what is labelled: `labels: {output: probability, tolerance: 0.02}`. Answers then carry a label key.

Example: `headrace quality label churn labels.jsonl`, then `headrace quality status churn`"""
)

Model = Annotated[str, typer.Argument(help="The model's name.")]


@app.command()
def status(model: Model, as_json: AsJson = False) -> None:
    """Show how right each version is, against how right it was at build, and whether that is proven worse.

    Example: `headrace quality status churn`
    """
    with ControlClient.from_environment() as client:
        seen = client.quality(model)
    if as_json:
        print_json(seen)
    else:
        answers().print(shown_quality(seen))


@app.command()
def label(
    model: Model,
    file: Annotated[str, typer.Argument(help="Lines of JSON; or Parquet: a file, a folder or a URI. - for standard input.")],
    parquet: Annotated[bool, typer.Option("--parquet", help="It is Parquet (as a name ending in .parquet says).")] = False,
    key: Annotated[str, typer.Option("--key", help="The Parquet column of label keys.")] = "key",
    value: Annotated[str, typer.Option("--label", help="The Parquet column of labels.")] = "label",
    as_json: AsJson = False,
) -> None:
    """Tell what was true of answers already given.

    The key came with the answer: in the header headrace.label_key of a stream's record, in the parameter label_keys over HTTP.
    A prediction that is labelled twice counts once, as long as that was not long ago.

    Example: `headrace quality label churn labels.jsonl`, of lines like `{"key": "0/2/1@1767225600/orders/0/1234", "label": 1}`
    """
    told = _tell_columns(model, file, key, value) if parquet or file.endswith(".parquet") else tell_lines(model, file)
    print_told(told, as_json=as_json)


@app.command()
def clear(
    model: Model,
    version: Annotated[int | None, typer.Option(min=1, help="That version's; all of the model's where left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Clear the alarm that answers are worse than at build: what is watched for begins anew.

    Example: `headrace quality clear churn`
    """
    with ControlClient.from_environment() as client:
        seen = client.clear_quality_alarm(model, version)
    if as_json:
        print_json(seen)
    else:
        answers().print(shown_quality(seen))


def tell_lines(model: str, file: str) -> LabelsTold:
    """Sends a file of lines; - is standard input. Raises NotFound."""
    try:
        lines: IO[bytes] = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise NotFound(f"can't be read: {error.strerror}", where=file, remedy="name a file of labels") from error
    with ControlClient.from_environment() as client, lines:
        return tell(model, lines, client.tell_labels)


def _tell_columns(model: str, uri: str, key: str, value: str) -> LabelsTold:
    # 60 MB and half a second, which nothing else here needs.
    from headrace.label_columns import of_parquet

    with ControlClient.from_environment() as client:
        return tell_all(model, of_parquet(uri, key, value), client.tell_labels)


def print_told(told: LabelsTold, *, as_json: bool) -> None:
    """What became of labels."""
    if as_json:
        print_json(told)
    else:
        counts = f"{told.counted} labels counted, {told.elsewhere} of other rollouts or told before, {told.refused} refused"
        answers().print(counts, *told.reasons, sep="\n  ")
