"""`headrace signing`: the keys that sign versions: made, and listed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cluster.commands.watch.by_hand import HandAct
from deployments.signing.keys import SHOWN
from headrace.by_hand import recorded
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.local.home import read_settings
from headrace.signing.key_files import make_signing_key, signing_keys

app = typer.Typer(help="Make and list the keys that sign versions.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What to call the key, e.g. release.")],
    as_json: AsJson = False,
) -> None:
    """Make a key that signs versions: a private one that only you may read, and a public one to give away.

    `headrace build --sign NAME` signs with it, or `sign: NAME` in a build section. Whoever shall trust it lists the public file
    in a signing policy (docs/signing.md). Keep a copy of the private one where you keep secrets.

    Example: `headrace signing new release`
    """
    with recorded(HandAct.SIGNING_KEY, remark, name=name[:200]) as act:
        made = make_signing_key(read_settings().home, name)
        act.came_to(keys=(made.trusted.id,))
    if as_json:
        print_json({"name": name, "id": made.trusted.id, "private": str(made.private), "public": str(made.public)})
        return
    notes().print(f"the key {made.trusted}; {made.private} signs, and is for nobody else's eyes", soft_wrap=True)
    answers().print(str(made.public), soft_wrap=True)


@app.command()
def ls(as_json: AsJson = False) -> None:
    """List the signing keys of this home.

    Example: `headrace signing ls`
    """
    found = signing_keys(read_settings().home)
    if as_json:
        told = [
            {"name": one.name, "id": one.trusted.id, "signs": one.private.exists(), "public": str(one.public)} for one in found
        ]
        print_json({"keys": told})
        return
    table = Table("name", "id", "signs here", "public key", box=None, pad_edge=False)
    for one in found:
        table.add_row(one.name, one.trusted.id[:SHOWN], "yes" if one.private.exists() else "no", str(one.public))
    answers().print(table)
