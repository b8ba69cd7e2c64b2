"""`headrace key`: API keys for callers: made, listed, rotated and revoked."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from cluster.access.callers import Grant, Role
from cluster.access.keys import NewKey, new_key
from cluster.commands.keys import CreateKey, KeyView, RevokeKey, RotateKey
from cluster.errors import BadInput
from headrace.cli.screens.output import AsJson, answers, notes, print_json
from headrace.client import ControlClient

app = typer.Typer(help="Make, list, rotate and revoke API keys.")

_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,6})([smhd])")
Expires = Annotated[str | None, typer.Option("--expires", metavar="TIME", help="How long it lasts, e.g. 90d; for ever.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, e.g. fraud-team: what grants, quotas and the audit call it.")],
    role: Annotated[
        list[Role] | None,
        typer.Option("--role", help="What it may do; may be given again. Nothing, unless the Access document says."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="With which models, e.g. fraud-*; may be given again. All of them.")
    ] = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and show it once: nobody can see it again.

    Roles: score calls models; view sees versions, rollouts, streams and batches; operate moves rollouts, replicas, streams and
    batches; deploy registers versions and applies documents; admin makes keys. The key holds from the next second on, at all
    gateways. It goes into `Authorization: Bearer KEY`, or into HEADRACE_TOKEN for this command line.

    Example: `headrace key create fraud-team --role score --model 'fraud-*' --expires 90d`
    """
    if model and not role:
        raise BadInput("--model says with which models a role is", where="--model", remedy="add --role, e.g. --role score")
    grants = (Grant(roles=tuple(role), models=tuple(model or ["*"])),) if role else ()
    fresh = new_key()
    asked = CreateKey(name=name, id=fresh.id, digest=fresh.digest, grants=grants, lasts_s=seconds(expires))
    with ControlClient.from_environment() as client:
        made = client.create_key(asked)
    _show_once(fresh, made, as_json=as_json)


@app.command()
def ls(as_json: AsJson = False) -> None:
    """List the keys, without what would let anybody use them.

    Example: `headrace key ls`
    """
    with ControlClient.from_environment() as client:
        found = client.keys()
    if as_json:
        print_json({"keys": [key.model_dump(mode="json") for key in found]})
        return
    shown = Table("name", "id", "may", "made", "by", "ends", box=None, pad_edge=False)
    for key in found:
        shown.add_row(key.name, key.id, _may(key), _at(key.created_s), key.by, _end(key))
    answers().print(shown)


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="Whose key shall be replaced.")],
    grace: Annotated[str, typer.Option("--grace", metavar="TIME", help="How long the old one still holds.")] = "24h",
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="How long the new one lasts; as long as the old one did.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make another key of the same name and rights, and show it once. The old one holds on for a while, one before it no more.

    Example: `headrace key rotate fraud-team --grace 1h`
    """
    fresh = new_key()
    asked = RotateKey(name=name, id=fresh.id, digest=fresh.digest, grace_s=seconds(grace) or 0.0, lasts_s=seconds(expires))
    with ControlClient.from_environment() as client:
        made = client.rotate_key(asked)
    _show_once(fresh, made, as_json=as_json)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="A name, for all its keys; or the id of one.")],
    as_json: AsJson = False,
) -> None:
    """End keys at once: all gateways refuse them within two seconds.

    Example: `headrace key revoke fraud-team`
    """
    with ControlClient.from_environment() as client:
        known = client.keys()
        by_id = any(key.id == which for key in known) and not any(key.name == which and not key.home for key in known)
        gone = client.revoke_keys(RevokeKey(id=which) if by_id else RevokeKey(name=which))
    if as_json:
        print_json({"revoked": [key.model_dump(mode="json") for key in gone]})
    else:
        notes().print(f"revoked: {', '.join(f'{key.name} ({key.id})' for key in gone)}", soft_wrap=True)


def seconds(text: str | None) -> float | None:
    """A duration such as 90d, 12h, 30m or 0s. Raises BadInput. Pure."""
    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadInput(f"{text!r} is no duration", where="--expires or --grace", remedy="write a number and s, m, h or d: 90d")
    return int(found[1]) * _UNIT_S[found[2]]


def _show_once(fresh: NewKey, made: KeyView, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": fresh.text, **made.model_dump(mode="json")})
        return
    sys.stdout.write(f"{fresh.text}\n")
    notes().print(
        f"the key of {made.name} ({made.id}): {_may(made)}; {_end(made)}. Keep it: it is not shown again", soft_wrap=True
    )


def _may(key: KeyView) -> str:
    if key.home:
        return "everything"
    told = [f"{', '.join(grant.roles)}: {' '.join(grant.models)}" for grant in key.grants]
    return "; ".join(told) or "what the Access document grants it"


def _at(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


def _end(key: KeyView) -> str:
    if not key.lives:
        return "ended"
    return "never ends" if key.expires_s is None else f"ends {_at(key.expires_s)}"
