"""`headrace audit ...`: what was done, by whom, and the proof that nobody has changed it since."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from cluster.audit.kinds import LOOKED_AT, USED
from cluster.commands.watch.whole_audit import MOST_RECORDS
from headrace.audit.export import export, prune
from headrace.audit.places import place_of
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
DAY_S = 86_400.0
Known = Annotated[
    Path | None,
    typer.Option(
        "--known", exists=True, dir_okay=False, help="A file with public keys, one a line, that signed before and are believed."
    ),
]


@app.command("ls")
def ls_command(
    model: Annotated[str | None, typer.Option("--model", help="Of this model alone.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Of this caller alone, as the audit names him.")] = None,
    uses: Annotated[
        bool, typer.Option("--uses", help="Also what was called, how often, and which rows were looked at, minute by minute.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = SHOWN,
    as_json: AsJson = False,
) -> None:
    """List what was done, the newest last.

    Example: `headrace audit ls --model churn --uses --limit 100`
    """
    with ControlClient.from_environment() as client:
        events = _newest(client, lambda event: _is_asked_for(event, model, by, uses=uses), limit)
    if as_json:
        print_json({"records": events})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("record", "when (UTC)", "model", "event", "by", "from", "what"):
        table.add_column(column)
    for event in events:
        when = f"{datetime.fromtimestamp(event['at_s'], UTC):%Y-%m-%d %H:%M:%S}"
        what = ", ".join(f"{name} {value}" for name, value in event["detail"].items() if not isinstance(value, list | dict))
        origin = " ".join(filter(None, (event.get("door", ""), event.get("address", ""))))
        table.add_row(str(event["record"]), when, event["model"], event["event"], event["actor"], origin, what)
    answers().print(table)


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Where to; one that has an export gets what is new.")],
    known: Known = None,
    as_json: AsJson = False,
) -> None:
    """Bring all records into a folder, as lines of OCSF, with a signed checkpoint; what is there already is verified first.

    Example: `headrace audit export /backup/audit`
    """
    with ControlClient.from_environment() as client:
        done = export(client, folder, _keys(known))
    if as_json:
        print_json({"added": done.added, "records": done.records, "key": done.key})
        return
    answers().print(f"{done.added:,} records added, {done.records:,} in all, in {folder}")
    notes().print(f"to verify them: headrace audit verify {folder} --key {done.key}", style="dim", soft_wrap=True)


@app.command("prune")
def prune_command(
    folder: Annotated[Path, typer.Argument(help="Where to records are exported before they go.")],
    keep_days: Annotated[float, typer.Option("--keep-days", min=0, help="Younger records stay.")],
    known: Known = None,
    as_json: AsJson = False,
) -> None:
    """Delete old records from the service, once they are exported and the folder is proven whole. Uses of models fill most of it.

    What stays keeps its numbers and proofs: later exports into the folder go on where it ends. That it was pruned is recorded.

    Example: `headrace audit prune /backup/audit --keep-days 90`
    """
    with ControlClient.from_environment() as client:
        gone = prune(client, folder, time.time() - keep_days * DAY_S, _keys(known))
    if as_json:
        print_json({"pruned": gone})
        return
    answers().print(f"{gone:,} records are gone from the service; {folder} has them")


@app.command("checkpoint")
def checkpoint_command(
    to: Annotated[
        list[str] | None, typer.Option("--to", help="A folder, a URI such as s3://bucket/audit, or kafka://broker:9092/topic.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the newest signed checkpoint, or keep it in places where who can write the store can't take it back.

    HEADRACE_AUDIT_CHECKPOINTS names such places, by blanks, for `headrace up`: then each gets one every ten minutes.

    Example: `headrace audit checkpoint --to s3://locked-bucket/audit --to kafka://broker:9092/audit-checkpoints`
    """
    keeps = [place_of(place) for place in to or ()]
    with ControlClient.from_environment() as client:
        newest = client.audit_checkpoint()
    kept = [keep(newest.note, newest.size) for keep in keeps]
    if as_json:
        print_json({"records": newest.size, "note": newest.note, "kept": kept})
    elif kept:
        answers().print("\n".join(f"kept: {where}" for where in kept), soft_wrap=True)
    else:
        answers().print(newest.note, soft_wrap=True, end="")


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="What `headrace audit export` has written.")],
    key: Annotated[
        str, typer.Option("--key", help="The public key, as `headrace audit key` prints it, or a file with it, or several.")
    ],
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that was kept elsewhere; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that no record was changed, removed, inserted or moved. Needs no service.

    Keep the key and some checkpoints where who can write the folder can't.

    Example: `headrace audit verify /backup/audit --key audit.pub --checkpoint /elsewhere/checkpoint-000000000120`
    """
    # Not by pathlib, which fails at several keys: too long a name.
    known = Path(key).read_text(encoding="utf-8") if os.path.isfile(key) else key
    found = verify(folder, known, tuple(checkpoint or ()))
    if as_json:
        print_json({"records": found.records, "checkpoints": found.checkpoints, "unproven": found.unproven, "first": found.first})
        return
    since = f" from {found.first:,} on" if found.first else ""
    answers().print(f"whole: {found.records:,} records{since}, proven by {found.checkpoints} checkpoints")
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


def _keys(known: Path | None) -> str:
    return "" if known is None else known.read_text(encoding="utf-8")


def _is_asked_for(event: dict[str, Any], model: str | None, by: str | None, *, uses: bool) -> bool:
    if event["event"] in (USED, LOOKED_AT) and not uses:
        return False
    return (model is None or event["model"] == model) and (by is None or event["actor"] == by)


def _newest(client: ControlClient, wanted: Callable[[dict[str, Any]], bool], limit: int) -> list[dict[str, Any]]:
    newest = client.audit_checkpoint()
    end, found = newest.size, list[dict[str, Any]]()
    while end > newest.first and len(found) < limit:
        first = max(end - MOST_RECORDS, newest.first)
        documents = client.audit_records(first).documents[: end - first]
        told = [{"record": first + at, **orjson.loads(text)} for at, text in enumerate(documents)]
        found = [event for event in told if wanted(event)] + found
        end = first
    return found[-limit:]
