"""What `headrace model push` and `pull` do with a registry: a version goes there and comes from there as an OCI artifact."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.versions import RegisterVersion, VersionView
from cluster.commands.watch.by_hand import HandAct
from deployments.artifacts.fetch import localize
from deployments.artifacts.manifest import parse_manifest
from deployments.artifacts.oci_form import pack
from deployments.artifacts.oci_place import look_up, pull
from deployments.oci.layout import Layout, told_of_disk
from deployments.oci.references import SCHEME, LayoutTag, Reference, reference_of
from deployments.oci.registry import ImageRegistry
from deployments.signing.admission import admitted_copy
from deployments.signing.files import bring_signatures
from headrace.by_hand import recorded
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.client import ControlClient
from headrace.local.home import read_settings


def push_to_registry(one: VersionView, place: str, base: LayoutTag | None, *, as_json: bool) -> None:
    """Sends a version to HOST/NAME[:TAG]; the tag is its number where left out. Raises BadInput, BadArtifact, Unreachable."""
    where = reference_of(place, where="to", default_tag=str(one.version))
    folder = localize(one.artifact_uri, one.digest)
    bring_signatures(one.artifact_uri, folder)
    home = read_settings().home
    home.make()
    screen, sent_bytes = notes(), 0
    with told_of_disk(home.root), tempfile.TemporaryDirectory(prefix=".push-", dir=home.root) as scratch:
        layout = Layout(Path(scratch))
        layout.prepare()
        index = pack(layout, folder, one.digest, base)
        with (
            recorded(HandAct.PUSH, remark, model=one.model, versions=(one.version,), digest=one.digest, to=str(where)),
            ImageRegistry(where) as registry,
        ):
            for blob, sent in registry.push(layout, index):
                sent_bytes += blob.size_bytes if sent else 0
                screen.print(f"  {blob.digest[:19]} {blob.size_bytes / 1e6:,.1f} MB{'' if sent else ', was there'}")
    uri = f"{SCHEME}{Reference(where.host, where.name, index.digest)}"
    if as_json:
        print_json({"model": one.model, "version": one.version, "tag": str(where), "artifact_uri": uri, "sent_bytes": sent_bytes})
    else:
        answers().print(f"{one.model} version {one.version} is {where}, {uri}, {sent_bytes / 1e6:,.1f} MB sent", soft_wrap=True)


def pull_command(
    place: Annotated[
        str, typer.Argument(metavar="HOST/NAME:TAG", help="The version in its registry; @sha256:HEX instead of a tag.")
    ],
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write its files to FOLDER/DIGEST instead, and register nothing.")
    ] = None,
    called: Annotated[
        str | None, typer.Option("--as", metavar="MODEL", help="The model to make it a version of; that of its manifest else.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a version from a registry, where `headrace model push` has sent it, and make it the model's next version.

    All of it is checked: the registry's digests, and then every file against the version's own manifest. It is registered by
    where it is for good (oci://HOST/NAME@sha256:HEX), so each machine that serves it fetches it from there, once. Logins are
    those of `skopeo login`, `podman login` or `docker login`.

    Example: `headrace model pull registry.example.com/team/digits:3`
    """
    shipped = look_up(place)
    manifest = parse_manifest(shipped.manifest, place)
    if to is not None:
        folder = pull(shipped, to.expanduser().absolute())
        if as_json:
            print_json({"model": manifest.model, "digest": shipped.digest, "folder": str(folder)})
        else:
            answers().print(f"{manifest.model}: {folder}", soft_wrap=True)
        return
    request = RegisterVersion(
        model=called or manifest.model,
        artifact_uri=shipped.uri,
        digest=shipped.digest,
        engine=manifest.engine,
        signature=manifest.signature,
    )
    notes().print(f"  fetches {sum(shipped.sizes.values()) / 1e6:,.1f} MB")
    with ControlClient.from_environment() as client:
        admitted_copy(shipped.uri, shipped.digest, request.model)
        made = client.register_version(request)
    if as_json:
        print_json({"model": made.model, "version": made.version, "artifact_uri": made.artifact_uri, "digest": made.digest})
    else:
        answers().print(f"{made.model} version {made.version} is {made.artifact_uri}", soft_wrap=True)
