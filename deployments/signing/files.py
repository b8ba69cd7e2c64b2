"""A version's manifest, signature and provenance, read where it lies, on any kind of place."""

from __future__ import annotations

from pathlib import Path

from cluster.errors import BadArtifact, Unreachable
from deployments.artifacts.manifest import BESIDE_MOST_BYTES, MANIFEST, REMEDY, SIGNATURE_FILE, SLSA_FILE
from deployments.artifacts.roots import is_in_registry, local_path, remote
from deployments.signing.examine import SignedFiles


def signed_files(uri: str) -> SignedFiles:
    """Those of the version at `uri`, a path or any URI. Raises BadArtifact where there is no version or one of them is too large,
    Unreachable; of a registry also Unauthenticated, Forbidden, NotFound."""
    if is_in_registry(uri):
        from deployments.artifacts.oci_place import look_up  # an HTTP client, which others go without

        shipped = look_up(uri)
        return SignedFiles(shipped.manifest, shipped.beside.get(SIGNATURE_FILE), shipped.beside.get(SLSA_FILE))
    manifest = _read(uri, MANIFEST)
    if manifest is None:
        raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=REMEDY)
    return SignedFiles(manifest, _read(uri, SIGNATURE_FILE), _read(uri, SLSA_FILE))


def bring_signatures(uri: str, copy: Path) -> None:
    """A version may have been signed since its files were copied from `uri`: afterwards the copy has what there is. Raises as
    `signed_files`."""
    if local_path(uri) is not None or is_in_registry(uri):  # in a registry nothing changes under a digest
        return
    found = signed_files(uri)
    told = {SIGNATURE_FILE: found.signature, SLSA_FILE: found.provenance}
    write_beside(str(copy), {name: content for name, content in told.items() if content is not None})


def write_beside(uri: str, files: dict[str, bytes]) -> None:
    """Puts files beside the manifest of the version at `uri`, each whole or not at all. Raises BadArtifact for a version in a
    registry, Unreachable."""
    if is_in_registry(uri):
        raise BadArtifact(
            "a version in a registry stays as it was pushed",
            where=uri,
            remedy="`headrace model pull --to FOLDER`, `headrace model sign FOLDER/DIGEST`, and push that",
        )
    from deployments.artifacts.places import Place, locate  # pyarrow, which replicas go without

    local = local_path(uri)
    folder = locate(str(local)) if local is not None else Place(*remote(uri))
    try:
        for name, content in files.items():
            (folder / name).write(content)
    except OSError as error:
        raise Unreachable(f"can't be written: {error}", where=uri, remedy="check the path and its permissions") from error


def _read(uri: str, name: str) -> bytes | None:
    local = local_path(uri)
    try:
        content = _bytes(local / name) if local is not None else _remote_bytes(uri, name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreachable(f"{name} can't be read: {error}", where=uri, remedy="see that its place is there") from error
    if len(content) > BESIDE_MOST_BYTES:
        raise BadArtifact(f"{name} is larger than {BESIDE_MOST_BYTES >> 20} MiB", where=uri, remedy=REMEDY)
    return content


def _bytes(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(BESIDE_MOST_BYTES + 1)


def _remote_bytes(uri: str, name: str) -> bytes:
    filesystem, base = remote(uri)
    with filesystem.open_input_stream(f"{base}/{name}") as stream:
        content: bytes = stream.read(BESIDE_MOST_BYTES + 1)
        return content
