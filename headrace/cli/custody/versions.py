"""`headrace model sign` and `headrace model verify`: a version's signature, made and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.commands.watch.by_hand import HandAct
from cluster.errors import BadArtifact, HeadraceError
from deployments.artifacts.roots import local_path
from deployments.builder.report import read_report
from deployments.signing.files import write_beside
from deployments.signing.keys import PrivateSigningKey
from deployments.signing.sign import build_facts, renewed, signatures
from headrace.by_hand import recorded
from headrace.cli.screens.output import AsJson, answers, many, notes, print_json, remark
from headrace.local.home import Settings, read_settings
from headrace.signing.key_files import signing_key_named, trusted_key_in
from headrace.signing.looking import KnownVersion, LookedAt, find_version, find_versions, look_at, trusted_for

Named = Annotated[str, typer.Argument(metavar="MODEL[:N]|FOLDER", help="The model, and its version; or a version's folder.")]
Number = Annotated[int | None, typer.Option("--version", help="The version; the newest where left out.")]


def sign_command(
    model: Named,
    key: Annotated[str, typer.Option("--key", help="A key of `headrace signing new`, or a file in PEM.")],
    version: Number = None,
    again: Annotated[
        bool, typer.Option("--again", help="Every version whose signature counts now, as when a key is replaced; no other.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a version that is there already: built before there was a key, or with another. Its digest stays what it is.

    All of it is verified first. Replicas that start from now on find the signature; a version in a registry stays as it is.

    With --again a key is replaced by another: each version of the model (or that one) that is signed by a key that counts now, as
    for `headrace model verify`, is signed by the new one. What it was made from stays as it was told. Then the old key can be
    taken out of the policy (docs/signing.md).

    Example: `headrace model sign churn --version 2 --key release`; `headrace model sign churn --again --key release-2027`
    """
    settings = read_settings()
    signing = signing_key_named(settings.home, key, Path.cwd())
    if again:
        _sign_again(find_versions(*_asked(model, version), settings), signing, settings, as_json=as_json)
        return
    found = find_version(*_asked(model, version), settings)
    seen = look_at(found, trusted_for(found.model, (), settings))
    if seen.altered:
        raise BadArtifact(
            seen.altered[0], where=str(found), remedy="restore the file, or build the version again: nothing is signed"
        )
    local = local_path(found.uri)
    report = read_report(local) if local is not None and seen.manifest.seal is None else None
    facts = build_facts(seen.manifest, report.model_dump(mode="json") if report is not None else None)
    # Of what was looked at, not of what may lie there by now.
    _write_recorded(found, signatures(seen.manifest, seen.files.manifest, signing, facts, found.model), signing, settings)
    if as_json:
        print_json({"model": found.model, "version": found.number, "digest": found.digest, "key": signing.id})
    else:
        answers().print(f"{found} is signed: {found.uri}", soft_wrap=True)


def _write_recorded(version: KnownVersion, files: dict[str, bytes], key: PrivateSigningKey, settings: Settings) -> None:
    about: dict[str, Any] = {"model": version.model, "versions": (version.number,)} if version.number is not None else {}
    with recorded(HandAct.SIGN, remark, settings, digest=version.digest, keys=(key.id,), **about):
        write_beside(version.uri, files)


def _sign_again(versions: Sequence[KnownVersion], key: PrivateSigningKey, settings: Settings, *, as_json: bool) -> None:
    """Raises HeadraceError at the end where one was signed, and its signature or a file of it does not hold."""
    done: list[KnownVersion] = []
    left: dict[str, str] = {}
    for one in versions:
        try:
            seen = look_at(one, trusted_for(one.model, (), settings))
            if (signer := seen.findings.signer) is not None and not seen.wrong and signer.id != key.id:
                _write_recorded(one, renewed(seen.manifest, seen.files, key, one.model), key, settings)
                done.append(one)
            elif seen.files.signature is None and seen.files.provenance is None:
                notes().print(f"{one} stays as it is: it is not signed", soft_wrap=True)
            elif seen.wrong:
                left[str(one)] = "; ".join(seen.wrong)
        except HeadraceError as error:
            left[str(one)] = str(error)
    if as_json:
        print_json({"signed": [{"version": one.number, "digest": one.digest} for one in done], "key": key.id, "left": left})
    else:
        for one in done:
            answers().print(f"{one} is signed again: {one.uri}", soft_wrap=True)
    if left:
        raise HeadraceError(
            f"{many(len(left), 'version')} not signed again: " + "; ".join(f"{name}: {why}" for name, why in left.items()),
            where=versions[0].model,
            remedy="as each says; until then leave the old key in the policy, if they shall be opened",
        )


def verify_command(
    model: Named,
    version: Number = None,
    key: Annotated[
        list[Path] | None, typer.Option("--key", metavar="FILE", help="A public key that may have signed; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say who signed a version, when, and what it was made from; and whether its files are still those.

    It needs no network and no service: of a home on this machine the store is read itself, and a folder is enough. Whose
    signatures count: those of --key; else of the keys that the signing policy lists for this model; else of this home's own.
    The exit code is 1 where anything does not hold.

    Example: `headrace model verify churn --version 2`; `headrace model verify ./files/DIGEST --key release.pub`
    """
    settings = read_settings()
    found = find_version(*_asked(model, version), settings)
    seen = look_at(found, trusted_for(found.model, map(trusted_key_in, key or ()), settings))
    if as_json:
        print_json(_told(seen))
    else:
        _show(seen)
    if seen.wrong:
        remedy = next((doubt.remedy for doubt in seen.findings.doubts), "restore the files, or build the version again")
        raise HeadraceError("; ".join(seen.wrong), where=str(found), remedy=remedy)


def _asked(model: str, version: int | None) -> tuple[str, int | None]:
    """`MODEL:N` is short for `MODEL --version N`."""
    name, _, number = model.rpartition(":")
    return (name, int(number)) if name and number.isdecimal() and version is None else (model, version)


def _show(seen: LookedAt) -> None:
    screen, found = answers(), seen.findings
    by = f"signed by {found.signer}" if found.signer else "not signed by a key that counts"
    when = f", {_at(found.provenance.signed_at)}" if found.provenance else ""
    screen.print(f"{seen.version}: {by}{when}", soft_wrap=True)
    screen.print(f"  digest   {seen.version.digest}")
    if found.provenance is not None:
        screen.print(f"  built    {_at(found.provenance.built_at)}, by {found.provenance.builder}", soft_wrap=True)
        for name, digest in found.provenance.materials.items():
            screen.print(f"  from     {name} {digest}", soft_wrap=True)
    for entry in seen.manifest.files:
        screen.print(f"  file     {entry.path} {entry.sha256}", soft_wrap=True)
    for wrong in seen.wrong:
        notes().print(f"  WRONG    {wrong}", soft_wrap=True)


def _told(seen: LookedAt) -> dict[str, Any]:
    signer, provenance = seen.findings.signer, seen.findings.provenance
    return {
        "model": seen.version.model,
        "version": seen.version.number,
        "artifact_uri": seen.version.uri,
        "digest": seen.version.digest,
        "signer": {"name": signer.name, "id": signer.id} if signer else None,
        "signed_at": provenance.signed_at.isoformat() if provenance else None,
        "built_at": provenance.built_at.isoformat() if provenance else None,
        "builder": provenance.builder if provenance else None,
        "materials": dict(provenance.materials) if provenance else {},
        "files": {entry.path: entry.sha256 for entry in seen.manifest.files},
        "wrong": list(seen.wrong),
    }


def _at(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
