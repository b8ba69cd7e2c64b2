"""OCI's words: media types, descriptors, and the bytes of documents."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from cluster.errors import BadArtifact

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
GZIP_LAYER_TYPE = f"{LAYER_TYPE}+gzip"
# Bases come from Docker's tools too.
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MANIFEST_TYPES = (MANIFEST_TYPE, DOCKER_MANIFEST_TYPE)
INDEX_TYPES = (INDEX_TYPE, DOCKER_INDEX_TYPE)

TAG = "org.opencontainers.image.ref.name"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a document says of a blob: its media type, digest as `sha256:HEX`, size in bytes, annotations, platform."""

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] | None = None

    @classmethod
    def read(cls, document: Any, where: str) -> Self:
        """From JSON. Raises BadArtifact where it is none, or its digest is no SHA-256: it would become a path."""
        try:
            read = cls(
                document["mediaType"],
                document["digest"],
                int(document["size"]),
                dict(document.get("annotations") or {}),
                document.get("platform"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact("has a descriptor that makes no sense", where=where, remedy="make or pull it again") from error
        if not isinstance(read.digest, str) or not _DIGEST.fullmatch(read.digest) or read.size_bytes < 0:
            raise BadArtifact("has a descriptor without a SHA-256 digest", where=where, remedy="make or pull it again")
        return read

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        told: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        if self.annotations:
            told["annotations"] = dict(self.annotations)
        if self.platform:
            told["platform"] = dict(self.platform)
        return told


def digest_of(content: bytes) -> str:
    """`sha256:HEX` of the bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encoded(document: Mapping[str, Any]) -> bytes:
    """A document's bytes: the same for the same document, whatever order it was put together in."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def parsed(content: bytes, where: str) -> dict[str, Any]:
    """A document. Raises BadArtifact where the bytes are no JSON object."""
    try:
        document = orjson.loads(content)
    except ValueError as error:
        raise BadArtifact("is no JSON", where=where, remedy="make or pull it again") from error
    if not isinstance(document, dict):
        raise BadArtifact("is no JSON object", where=where, remedy="make or pull it again")
    return document
