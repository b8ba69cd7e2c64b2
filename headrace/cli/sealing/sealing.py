"""`headrace sealing new|ls|rewrap`: keys for sealed versions, and whom a version is sealed for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cluster.commands.watch.by_hand import HandAct
from cluster.errors import BadArtifact, Conflict, HeadraceError
from cluster.versions import check_name
from deployments.artifacts.manifest import MANIFEST
from deployments.artifacts.sealing.rewrapping import rewrap
from deployments.artifacts.sealing.wraps import SealKeys
from deployments.artifacts.version_files import VersionFiles, open_folder, open_version
from deployments.keys.hpke_key import HpkeKey, new_hpke_pair
from deployments.keys.port import KeyHolder
from deployments.keys.references import PRIVATE, PUBLIC, holder_of, key_in_file
from deployments.keys.ring import KeyRing
from deployments.keys.secret_file import write_once
from headrace.by_hand import recorded
from headrace.cli.models import versions_of
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.client import ControlClient
from headrace.local.home import read_settings

app = typer.Typer(help="Make keys for sealed versions, and change whom one is sealed for.")

Version = Annotated[int | None, typer.Option("--version", help="The version; every sealed one where left out.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What to call it, e.g. prod.")],
    as_json: AsJson = False,
) -> None:
    """Make a key: NAME.key, which opens what is sealed for it, and NAME.pub, which only seals.

    Both lie in the folder `keys` of HEADRACE_HOME. A machine that builds needs NAME.pub alone; those that serve need NAME.key, by
    HEADRACE_KEYS where it lies elsewhere. Keep a copy of NAME.key: without it nobody opens what is sealed for it.

    Example: `headrace sealing new prod`
    """
    check_name(name, what="key")
    home = read_settings().home
    home.make()
    home.keys.mkdir(mode=0o700, exist_ok=True)
    private, public = (home.keys / f"{name}{ending}" for ending in (PRIVATE, PUBLIC))
    there = next((file for file in (private, public) if file.exists()), None)
    if there is not None:
        raise Conflict("there is a key of that name", where=str(there), remedy="choose another name")
    secret, shown = new_hpke_pair()
    key_id = HpkeKey.of_pem(shown, str(public)).key_id
    with recorded(HandAct.SEALING_KEY, remark, name=name, keys=(key_id,)):
        write_once(private, secret)
        public.write_text(shown, encoding="ascii")
    if as_json:
        print_json({"name": name, "key": key_id, "private": str(private), "public": str(public)})
        return
    answers().print(f"{name} is {key_id}: {public}", soft_wrap=True)
    notes().print(f"{private} opens what is sealed for it: keep a copy, and show it to nobody", soft_wrap=True)


@app.command()
def ls(
    model: Annotated[
        str | None, typer.Argument(help="A model, or the folder of a version: whom its versions are sealed for.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the keys of this machine; or whom a model's versions are sealed for.

    The keys are those of HEADRACE_KEYS, and the public halves in the folder `keys` of HEADRACE_HOME.

    Example: `headrace sealing ls`; `headrace sealing ls digits`
    """
    known = _known()
    if model is None:
        _show_keys(known, as_json=as_json)
        return
    found: list[tuple[str, SealKeys | None, str]] = []
    for called, opened in _versions(model):
        try:
            files = opened()
            found.append((called, None if files.manifest.seal is None else files.seal_keys(), ""))
        except HeadraceError as error:  # one that is damaged or away hides no other
            found.append((called, None, str(error)))
    opening = {holder.key_id for holder in known if holder.opens}
    if as_json:
        versions = [
            {"version": called, "wrong": wrong} if wrong else _told(called, keys, opening) for called, keys, wrong in found
        ]
        print_json({"model": model, "versions": versions})
        return
    named = {holder.key_id: Path(holder.where).stem for holder in known if Path(holder.where).suffix in (PRIVATE, PUBLIC)}
    table = Table("version", "sealed for", "opens here", box=None, pad_edge=False)
    for called, keys, wrong in found:
        whom = ", ".join(f"{key} ({named[key]})" if key in named else key for key in _ids(keys))
        opens = "yes" if keys is None or opening & {*_ids(keys)} else "no"
        table.add_row(called, wrong or whom or "is not sealed", "-" if wrong else opens)
    answers().print(table)


@app.command("rewrap")
def rewrap_command(
    model: Annotated[str, typer.Argument(help="The model; or the folder of a version, which needs no service.")],
    seal: Annotated[list[str], typer.Option(metavar="KEY", help="Who shall be able to open it; again for more.")],
    version: Version = None,
    keep: Annotated[bool, typer.Option("--keep", help="As well as those who can now; else nobody else can.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change whom versions are sealed for, as when a key is replaced: no file but keys.json changes, and no digest.

    Takes a key that opens them now. Who had a key and kept copies of the files still opens those: where that must not be, build
    the version again.

    Example: `headrace sealing rewrap digits --seal prod-2027`
    """
    folder = read_settings().home.keys
    holders = [holder_of(one, folder=folder) for one in seal]
    ring, changed, failed = KeyRing.from_environment(), [], list[tuple[str, HeadraceError]]()
    for called, opened in _versions(model, version):
        try:
            files = opened()
            if files.manifest.seal is None:
                if version is not None:
                    raise BadArtifact("is not sealed", where=called, remedy="build it again with `headrace build --seal KEY`")
                continue
            which = {"model": model, "versions": (int(called),)} if called.isdecimal() else {"name": files.manifest.model}
            with recorded(HandAct.REWRAP, remark, keys=[holder.key_id for holder in holders], **which) as act:
                before, after = rewrap(files, holders, ring, keep=keep)
                act.came_to(keys=_ids(after))
        except HeadraceError as error:  # one that does not open keeps no other from being sealed anew
            failed.append((called, error))
            continue
        changed.append({"version": called, "before": _ids(before), "keys": _ids(after)})
    _show_rewrapped(model, changed, as_json=as_json)
    for called, why in failed[1:]:
        notes().print(f"{called} is sealed for whom it was: {why}", soft_wrap=True)
    if failed:
        raise failed[0][1]
    if not changed and not as_json:
        notes().print(f"{model} has no sealed version")


def _show_rewrapped(model: str, changed: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"model": model, "rewrapped": changed})
        return
    for one in changed:
        answers().print(f"{one['version']} is sealed for {', '.join(one['keys'])}", soft_wrap=True)


def _told(called: str, keys: SealKeys | None, opening: Set[str]) -> dict[str, Any]:
    return {
        "version": called,
        "sealed": keys is not None,
        "keys": _ids(keys),
        "opens_here": keys is None or bool(opening & {*_ids(keys)}),
    }


def _versions(model: str, number: int | None = None) -> list[tuple[str, Callable[[], VersionFiles]]]:
    """What each is called, and what opens it."""
    if (Path(model) / MANIFEST).exists():
        return [(model, partial(open_folder, Path(model).absolute()))]
    with ControlClient.from_environment() as client:
        found = versions_of(client.model(model), number)
    return [(str(one.version), partial(open_version, one.artifact_uri, one.digest)) for one in found]


def _known() -> list[KeyHolder]:
    """The keys of this machine, those that open first; each once."""
    folder = read_settings().home.keys
    public = [key_in_file(file) for file in sorted(folder.glob(f"*{PUBLIC}"))]
    by_id = {holder.key_id: holder for holder in (*reversed(public), *reversed(KeyRing.from_environment().holders))}
    return sorted(by_id.values(), key=lambda holder: (not holder.opens, holder.where))


def _show_keys(known: Sequence[KeyHolder], *, as_json: bool) -> None:
    if as_json:
        print_json({"keys": [{"key": one.key_id, "where": one.where, "opens": one.opens} for one in known]})
        return
    table = Table("key", "where", "may", box=None, pad_edge=False)
    for one in known:
        table.add_row(one.key_id, one.where, "seal and open" if one.opens else "seal")
    answers().print(table)


def _ids(keys: SealKeys | None) -> list[str]:
    return [] if keys is None else [one.key for one in keys.wraps]
