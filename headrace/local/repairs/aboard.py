"""The versions that an image brings: registered and served once the controller runs. What it knows already stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.models import ModelView
from cluster.commands.versions import RegisterVersion, VersionView
from cluster.errors import BadArtifact, BadInput, HeadraceError, NoCapacity, NotFound, Unreachable
from deployments.artifacts.manifest import MANIFEST, verify
from deployments.builder.report import read_report
from deployments.images.image import DOCUMENT
from headrace.client import ControlClient

Say = Callable[[str], None]


def take_aboard(client: ControlClient, folder: Path, say: Say) -> tuple[str, ...]:
    """Registers FOLDER/MODEL/DIGEST of each model and applies FOLDER/MODEL/model.json, unless somebody has applied one before;
    `say` is told a line for each. What somebody has removed since an earlier start stays removed.

    Returns what was left out, and why: a version that is damaged, refused, or sealed with no key here keeps no other from being
    served. Raises BadInput for a folder that is none, Unreachable or NoCapacity where the controller is away.
    """
    if not folder.is_dir():
        raise BadInput("is no folder", where=f"--models {folder}", remedy="name a folder that `headrace image build` has made")
    left_out: list[str] = []
    for document_file in sorted(folder.glob(f"*/{DOCUMENT}")):
        try:
            document = _document(document_file)
        except BadArtifact as error:
            left_out.append(f"{document_file.parent.name} of the image: {error}")
            continue
        known = _known(client, document.name)
        taken = {one.digest: one for one in known.versions} if known is not None else {}
        there = gone = 0
        for path in sorted(path.parent for path in document_file.parent.glob(f"*/{MANIFEST}")):
            if path.name in taken:
                there += 1
                _bring_again(client, taken[path.name], path, say)
                continue
            try:
                request = _request(document.name, path)
            except HeadraceError as error:  # also where the service that holds its key is away
                left_out.append(_left_out(document.name, path, error))
                continue
            try:
                say(f"{document.name}: version {client.register_version(request).version} of the image")
                there += 1
            except NotFound as error:
                gone += 1
                say(f"{document.name}: {path.name[:12]} of the image stays away: {error.what}")
            except (Unreachable, NoCapacity):
                raise
            except HeadraceError as error:  # the signing policy's, for one
                left_out.append(_left_out(document.name, path, error))
        # A model of which somebody has removed all that ever came is not there again for what is still left out.
        if (known is None or known.serving is None) and (there or not gone):
            client.apply(Apply(models=(document,)))
            say(f"{document.name}: served as the image says")
    return tuple(left_out)


def _bring_again(client: ControlClient, version: VersionView, path: Path, say: Say) -> None:
    """A version that is registered may have been so by hand, or by a release that did not note what starts bring: from now on it
    is not registered again where somebody has removed it. Whatever else is wrong with it is told. Raises Unreachable and
    NoCapacity."""
    asked = version.model_dump(include={"model", "digest", "engine", "signature"})
    try:
        client.register_version(RegisterVersion(**asked, artifact_uri=str(path), standing=True))
    except (Unreachable, NoCapacity):
        raise
    except HeadraceError as error:
        say(f"{version.model}: version {version.version} of the image is registered, and {error}")


def _left_out(model: str, path: Path, error: HeadraceError) -> str:
    return f"{model}, version {path.name[:12]} of the image: {error}"


def _request(model: str, path: Path) -> RegisterVersion:
    """Raises BadArtifact for a version that is damaged; for one that is sealed, and that nobody here can open, Forbidden or
    Unreachable."""
    manifest = verify(path, path.name)
    report = read_report(path)
    return RegisterVersion(
        model=model,
        artifact_uri=str(path),
        digest=path.name,
        engine=manifest.engine,
        signature=manifest.signature,
        quality=report.built_quality if report is not None else None,
        standing=True,
    )


def _document(path: Path) -> ModelDocument:
    try:
        return ModelDocument.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadArtifact("is no Model's document", where=str(path), remedy="make the image again") from error


def _known(client: ControlClient, model: str) -> ModelView | None:
    try:
        return client.model(model)
    except NotFound:
        return None
