"""`headrace image build|push`: a container image, without a daemon."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Annotated

import typer

from cluster.commands.documents import ModelDocument
from cluster.commands.watch.by_hand import HandAct
from cluster.errors import BadInput
from cluster.rollout.plan import Plan
from deployments.artifacts.fetch import localize
from deployments.images.image import ModelAboard, build_image
from deployments.images.variants import ImageVariant
from deployments.oci.layout import Layout
from deployments.oci.references import place_of, reference_of
from deployments.oci.registry import ImageRegistry
from deployments.signing.files import bring_signatures
from headrace.by_hand import recorded
from headrace.cli.models import version_of
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.client import ControlClient

app = typer.Typer(no_args_is_help=True)


@app.command("build")
def build(
    output: Annotated[str, typer.Option(metavar="oci:DIR:TAG", help="The OCI layout to write, and the tag in it.")],
    models: Annotated[
        list[str] | None, typer.Option("--with", metavar="MODEL[:N]", help="A version to bring; the newest without N.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="oci:DIR[:TAG]", help="An image with Python; made by mmdebstrap where left out.")
    ] = None,
    variant: Annotated[
        ImageVariant | None, typer.Option(help="serve-torch brings PyTorch too. The one that the versions need, where left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a container image as an OCI layout: no daemon, and no root where a base is given.

    Base, wheels, our code and each model are layers of their own; a layer that was made of the same before is reused. The same
    inputs give the same digests: SOURCE_DATE_EPOCH is the time that the image tells. It runs `headrace up --supervise` as user
    10001; only /tmp, /dev/shm and HEADRACE_HOME have to be writable.

    Example: `headrace image build --with digits --base oci:images:python --output oci:images:digits`
    """
    place = place_of(output, option="--output")
    stands_on = None if base is None else place_of(base, option="--base", default_tag="latest")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not epoch.isdecimal():
        raise BadInput("is no whole number of seconds", where="SOURCE_DATE_EPOCH", remedy="write digits alone")
    aboard = _aboard(models or [])
    screen = notes()
    with ExitStack() as told:
        for one in aboard:
            told.enter_context(recorded(HandAct.IMAGE, remark, model=one.name, digest=one.digest, to=str(place)))
        made = build_image(
            place,
            base=stands_on,
            variant=variant,
            models=aboard,
            epoch_s=int(epoch),
            say=lambda line: screen.print(f"  {line}", soft_wrap=True),
        )
    if as_json:
        layers = [
            {"name": one.name, "digest": one.descriptor.digest, "size_bytes": one.descriptor.size_bytes, "reused": one.reused}
            for one in made.layers
        ]
        print_json({"image": str(place), "digest": made.manifest.digest, "size_bytes": made.size_bytes, "layers": layers})
    else:
        answers().print(f"{place} is {made.manifest.digest}, {made.size_bytes / 1e6:,.1f} MB", soft_wrap=True)


def _aboard(asked: list[str]) -> list[ModelAboard]:
    """The versions by the controller's word, verified. Raises NotFound, BadInput."""
    if not asked:
        return []
    found: dict[str, ModelAboard] = {}
    with ControlClient.from_environment() as client:
        for text in asked:
            name, colon, number = text.partition(":")
            if colon and not number.isdecimal():
                raise BadInput("is no version", where=f"--with {text}", remedy="write MODEL or MODEL:N, e.g. digits:2")
            if name in found:
                raise BadInput("an image brings one version of a model", where=f"--with {text}", remedy="name it once")
            view = client.model(name)
            one = version_of(view, int(number) if number else None)
            document = ModelDocument.model_validate(
                {
                    "name": name,
                    **({"serving": view.serving.model_dump()} if view.serving else {}),
                    "rollout": (view.plan or Plan()).model_dump(),
                }
            )
            folder = localize(one.artifact_uri, one.digest)
            bring_signatures(one.artifact_uri, folder)
            found[name] = ModelAboard(name, folder, one.digest, document.model_dump_json().encode())
    return list(found.values())


@app.command("push")
def push(
    image: Annotated[str, typer.Argument(metavar="oci:DIR:TAG", help="The image in its layout.")],
    to: Annotated[str, typer.Argument(metavar="HOST/NAME:TAG", help="Where it goes.")],
    as_json: AsJson = False,
) -> None:
    """Send an image to a registry, to the byte: it has the same digest there. What the registry has already is not sent again.

    Logins are those of `skopeo login`, `podman login` or `docker login` (REGISTRY_AUTH_FILE names another file). Loopback is
    spoken to in clear, every other host over TLS.

    Example: `headrace image push oci:images:digits registry.example.com/team/digits:1`
    """
    place, where = place_of(image, option="image"), reference_of(to, where="to")
    layout = Layout(place.folder)
    one = layout.find(place.tag)
    screen, sent_bytes = notes(), 0
    with ImageRegistry(where) as registry:
        for blob, sent in registry.push(layout, one):
            sent_bytes += blob.size_bytes if sent else 0
            screen.print(f"  {blob.digest[:19]} {blob.size_bytes / 1e6:,.1f} MB{'' if sent else ', was there'}")
    if as_json:
        print_json({"image": str(where), "digest": one.digest, "sent_bytes": sent_bytes})
    else:
        answers().print(f"{where} is {one.digest}, {sent_bytes / 1e6:,.1f} MB sent", soft_wrap=True)
