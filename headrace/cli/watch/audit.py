"""`headrace audit ...`: what was done, by whom, and the proof that nobody has changed it since."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from cluster.commands.watch.whole_audit import MOST_RECORDS
from headrace.audit.export import export
from headrace.audit.verify import verify
from headrace.cli.screens.output import AsJson, answers, notes, print_json
from headrace.client import ControlClient

app = typer.Typer(
    help="""See what was done and by whom, take it out, and prove that it is whole.

Everything that changes something is recorded in the transaction that changes it, as a leaf of a tree whose root is signed.
Whoever keeps an earlier checkpoint, or an export, finds any later change of what was recorded.

Example: `headrace audit export /backup/audit`, and without a service: `headrace audit verify /backup/audit --key KEY`"""
)

SHOWN = 30


@app.command("ls")
def ls_command(
    model: Annotated[str | None, typer.Option("--model", help="Of this model alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = SHOWN,
    as_json: AsJson = False,
) -> None:
    """List what was done, the newest last.

    Example: `headrace audit ls --model churn --limit 100`
    """
    with ControlClient.from_environment() as client:
        events = _newest(client, model, limit)
    if as_json:
        print_json({"records": events})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("record", "when (UTC)", "model", "event", "by", "what"):
        table.add_column(column)
    for event in events:
        when = f"{datetime.fromtimestamp(event['at_s'], UTC):%Y-%m-%d %H:%M:%S}"
        what = ", ".join(f"{name} {value}" for name, value in event["detail"].items() if not isinstance(value, list | dict))
        table.add_row(str(event["record"]), when, event["model"], event["event"], event["actor"], what)
    answers().print(table)


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Where to; one that has an export gets what is new.")], as_json: AsJson = False
) -> None:
    """Bring all records into a folder, as lines of OCSF, with a signed checkpoint; what is there already is verified first.

    Example: `headrace audit export /backup/audit`
    """
    with ControlClient.from_environment() as client:
        done = export(client, folder)
    if as_json:
        print_json({"added": done.added, "records": done.records, "key": done.key})
        return
    answers().print(f"{done.added:,} records added, {done.records:,} in all, in {folder}")
    notes().print(f"[dim]to verify them: headrace audit verify {folder} --key {done.key}[/dim]", soft_wrap=True)


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="What `headrace audit export` has written.")],
    key: Annotated[str, typer.Option("--key", help="The public key, as `headrace audit key` prints it, or a file with it.")],
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that was kept elsewhere; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that no record was changed, removed, inserted or moved. Needs no service.

    Keep the key and some checkpoints where who can write the folder can't.

    Example: `headrace audit verify /backup/audit --key audit.pub --checkpoint /elsewhere/checkpoint-000000000120`
    """
    known = Path(key).read_text(encoding="utf-8") if Path(key).is_file() else key
    found = verify(folder, known, tuple(checkpoint or ()))
    if as_json:
        print_json({"records": found.records, "checkpoints": found.checkpoints, "unproven": found.unproven})
        return
    answers().print(f"whole: {found.records:,} records, proven by {found.checkpoints} checkpoints")
    if found.unproven:
        answers().print(f"{found.unproven:,} records after the last checkpoint are proven by none yet")


@app.command("key")
def key_command(as_json: AsJson = False) -> None:
    """Print the public key that verifies this service's audit.

    Example: `headrace audit key > audit.pub`
    """
    with ControlClient.from_environment() as client:
        told = client.audit_checkpoint().key
    if as_json:
        print_json({"key": told})
    else:
        answers().print(told, soft_wrap=True)


def _newest(client: ControlClient, model: str | None, limit: int) -> list[dict[str, Any]]:
    end = client.audit_checkpoint().size
    found: list[dict[str, Any]] = []
    while end and len(found) < limit:
        first = max(end - MOST_RECORDS, 0)
        documents = client.audit_records(first).documents[: end - first]
        told = [{"record": first + at, **orjson.loads(text)} for at, text in enumerate(documents)]
        found = [event for event in told if model is None or event["model"] == model] + found
        end = first
    return found[-limit:]
