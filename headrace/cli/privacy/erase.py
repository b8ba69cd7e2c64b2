"""`headrace erase`: what was encrypted of a data subject can be read by nobody any more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import BaseModel

from cluster.errors import BadInput
from consumers.stream.sealed.book import FRESH_S
from deployments.keys.references import holder_of
from deployments.keys.ring import KeyRing, keys_folder
from headrace.cli.screens.output import AsJson, answers, notes, print_json
from headrace.client import ControlClient
from headrace.erasing import erase

app = typer.Typer()


class Erased(BaseModel):
    """What was erased: a pseudonym, under which the audit has it."""

    keys: str
    subject: str


@app.command("erase")
def erase_command(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="SUBJECT...", help="Whom: as the records' keys or header named them; `-` reads lines of the input."
        ),
    ],
    keys: Annotated[str, typer.Option("--keys", help="Among which keys: `encrypt.keys` of the streams.")] = "subjects",
    key: Annotated[
        str, typer.Option("--key", help="Seal the keys that are left for this key-encryption key from now on; streams need it.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Destroy data subjects' keys: their encrypted fields, wherever they lie, open no more.

    It takes an admin, and the key-encryption key of the streams (HEADRACE_KEYS). The controller and the audit learn pseudonyms,
    never whom you name. Streams stop using the keys within 15 s. Copies of the store from before still hold them: see
    docs/privacy.md. With --json, one object a line for each.

    Example: `headrace erase customer-4711`; `... - < subjects.txt` takes one a line, and keeps them out of the shell's history
    """
    whom = [one for each in subjects for one in (_lines() if each == "-" else (each,))]
    if not whom or "" in whom:
        raise BadInput("nobody is named", where="SUBJECT", remedy="name one as the records' keys do")
    seal_for = holder_of(key, folder=keys_folder()) if key else None
    with ControlClient.from_environment() as client:
        ask = client.subject_keys, client.subject_branches, client.replace_subject_keys
        for pseudonym in erase(whom, keys, KeyRing.from_environment(), *ask, seal_for):
            if as_json:
                print_json(Erased(keys=keys, subject=pseudonym))
            else:
                answers().print(f"erased: {pseudonym} of {keys}")
    if not as_json:
        notes().print(f"streams stop using the keys within {FRESH_S:.0f} s")


def _lines() -> list[str]:
    return [line for each in sys.stdin if (line := each.rstrip("\n"))]
