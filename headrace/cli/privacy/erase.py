"""`headrace erase`: what was encrypted of a data subject can be read by nobody any more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import BaseModel

from cluster.errors import BadInput
from deployments.keys.references import holder_of
from deployments.keys.ring import KeyRing, keys_folder
from headrace.cli.screens.output import AsJson, answers, print_json
from headrace.client import ControlClient
from headrace.erasing import erase

app = typer.Typer()


class Erased(BaseModel):
    """What was erased: a pseudonym, under which the audit has it."""

    keys: str
    subject: str


@app.command("erase")
def erase_command(
    subject: Annotated[str, typer.Argument(help="Whom: as the records' keys or header named him; `-` reads it from the input.")],
    keys: Annotated[str, typer.Option("--keys", help="Among which keys: `encrypt.keys` of the streams.")] = "subjects",
    key: Annotated[
        str, typer.Option("--key", help="Seal the keys that are left for this key-encryption key from now on; streams need it.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Destroy a data subject's key: its encrypted fields, wherever they lie, open no more.

    It takes an admin, and the key-encryption key of the streams (HEADRACE_KEYS). The controller and the audit learn a pseudonym,
    never whom you name. Streams stop using the key within a minute. Copies of the store from before still hold it: see
    docs/privacy.md.

    Example: `headrace erase customer-4711`; `... - < subject.txt` keeps him out of the shell's history
    """
    whom = sys.stdin.readline().rstrip("\n") if subject == "-" else subject
    if not whom:
        raise BadInput("nobody is named", where="SUBJECT", remedy="name one as the records' keys do")
    seal_for = holder_of(key, folder=keys_folder()) if key else None
    with ControlClient.from_environment() as client:
        pseudonym = erase(whom, keys, KeyRing.from_environment(), client.subject_keys, client.replace_subject_keys, seal_for)
    if as_json:
        print_json(Erased(keys=keys, subject=pseudonym))
    else:
        answers().print(f"erased: {pseudonym} of {keys}; streams stop using its key within a minute")
