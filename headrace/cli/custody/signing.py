"""`headrace signing`: the keys that sign versions: made, and listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from cluster.commands.watch.by_hand import HandAct
from cluster.errors import HeadraceError
from deployments.signing.keys import SHOWN
from headrace.by_hand import recorded
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.local.home import Settings, read_settings
from headrace.signing.key_files import make_signing_key, signing_keys
from headrace.signing.looking import KnownVersion, find_versions, look_at_signature, trusted_for

app = typer.Typer(help="Make and list the keys that sign versions.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What to call the key, e.g. release.")],
    as_json: AsJson = False,
) -> None:
    """Make a key that signs versions: a private one that only you may read, and a public one to give away.

    `headrace build --sign NAME` signs with it, or `sign: NAME` in a build section. Whoever shall trust it lists the public file
    in a signing policy (docs/signing.md). Keep a copy of the private one where you keep secrets. To replace a key by another:
    `headrace model sign MODEL --again --key NEW`.

    Example: `headrace signing new release`
    """
    with recorded(HandAct.SIGNING_KEY, remark, name=name) as act:
        made = make_signing_key(read_settings().home, name)
        act.came_to(keys=(made.trusted.id,))
    if as_json:
        print_json({"name": name, "id": made.trusted.id, "private": str(made.private), "public": str(made.public)})
        return
    notes().print(f"the key {made.trusted}; {made.private} signs, and is for nobody else's eyes", soft_wrap=True)
    answers().print(str(made.public), soft_wrap=True)


@app.command()
def ls(
    model: Annotated[str | None, typer.Argument(help="A model, or the folder of a version: who signed its versions.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the signing keys of this home; or who signed a model's versions, by which is seen what a key is still needed for.

    Signatures alone are read, and no file of a version: `headrace model verify` looks at all of one.

    Example: `headrace signing ls`; `headrace signing ls churn`
    """
    settings = read_settings()
    if model is not None:
        _show_signers(find_versions(model, None, settings), settings, as_json=as_json)
        return
    found = signing_keys(settings.home)
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


def _show_signers(versions: Sequence[KnownVersion], settings: Settings, *, as_json: bool) -> None:
    """One that can't be read is told in its row, and hides no other."""
    demand = trusted_for(versions[0].model, (), settings)
    rows = []
    for one in versions:
        signer = signed_at = None
        try:
            seen = look_at_signature(one, demand)
            signer, provenance, wrong = seen.findings.signer, seen.findings.provenance, "; ".join(seen.wrong)
            signed_at = provenance.signed_at if provenance is not None else None
        except HeadraceError as error:
            wrong = str(error)
        rows.append((one, signer, signed_at, wrong))
    if as_json:
        told_versions = [
            {
                "version": one.number,
                "digest": one.digest,
                "signer": {"name": signer.name, "id": signer.id} if signer else None,
                "signed_at": signed_at.isoformat() if signed_at else None,
                "wrong": wrong,
            }
            for one, signer, signed_at, wrong in rows
        ]
        print_json({"model": versions[0].model, "versions": told_versions})
        return
    table = Table("version", "signed by", "signed", "", box=None, pad_edge=False)
    for one, signer, signed_at, wrong in rows:
        when = f"{signed_at:%Y-%m-%d %H:%M UTC}" if signed_at else "-"
        table.add_row("-" if one.number is None else str(one.number), str(signer or "-"), when, wrong)
    answers().print(table)
