"""The versions that an image brings: registered and served once the controller runs. What it knows already stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.versions import RegisterVersion
from cluster.errors import BadArtifact, BadInput, NotFound
from deployments.artifacts.manifest import MANIFEST, verify
from deployments.builder.report import read_report
from deployments.images.image import DOCUMENT
from headrace.client import ControlClient


def take_aboard(client: ControlClient, folder: Path) -> Iterator[str]:
    """Registers FOLDER/MODEL/DIGEST of each model and applies FOLDER/MODEL/model.json, unless somebody has applied one before.
    What somebody has removed since an earlier start stays removed.

    Yields a line for each. Raises BadArtifact for a version that is damaged, BadInput for a folder that is none.
    """
    if not folder.is_dir():
        raise BadInput("is no folder", where=f"--models {folder}", remedy="name a folder that `headrace image build` has made")
    for document_file in sorted(folder.glob(f"*/{DOCUMENT}")):
        document = _document(document_file)
        artifacts = sorted(path.parent for path in document_file.parent.glob(f"*/{MANIFEST}"))
        gone = 0
        for path in artifacts:
            manifest = verify(path, path.name)
            report = read_report(path)
            wanted = RegisterVersion(
                model=document.name,
                artifact_uri=str(path),
                digest=path.name,
                engine=manifest.engine,
                signature=manifest.signature,
                quality=report.built_quality if report is not None else None,
                standing=True,
            )
            try:
                yield f"{document.name}: version {client.register_version(wanted).version} of the image"
            except NotFound as error:
                gone += 1
                yield f"{document.name}: {path.name[:12]} of the image stays away: {error.what}"
        if gone < len(artifacts) or not artifacts:
            yield from _served(client, document)


def _served(client: ControlClient, document: ModelDocument) -> Iterator[str]:
    if not _is_applied(client, document.name):
        client.apply(Apply(models=(document,)))
        yield f"{document.name}: served as the image says"


def _document(path: Path) -> ModelDocument:
    try:
        return ModelDocument.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadArtifact("is no Model's document", where=str(path), remedy="make the image again") from error


def _is_applied(client: ControlClient, model: str) -> bool:
    try:
        return client.model(model).serving is not None
    except NotFound:
        return False
