"""A model's versions: immutable, numbered artifacts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import BadInput
from cluster.signature import Signature

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
# With these a version's app would be called like a stream's, say `stream--v1`, or like the gateway's.
TAKEN = frozenset({"stream", "batch", "gateway"})


def check_name(name: str, *, what: str) -> str:
    """Returns `name` where it may name a model, stream or batch; raises BadInput elsewhere."""
    if what == "model" and name in TAKEN:
        raise BadInput(f"{name!r} can't name a model: headrace calls its own apps so", where="name", remedy=f"say {name}-model")
    if not re.fullmatch(NAME_PATTERN, name) or "--" in name:
        raise BadInput(
            f"{name!r} can't name a {what}",
            where="name",
            remedy="use lower-case letters, digits and single dashes, 63 characters at most",
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class VersionId:
    """Names one version, e.g. `digits` 3."""

    model: str
    number: int

    @property
    def app(self) -> str:
        """The name of the Serve app that runs it, e.g. `digits--v3`."""
        return f"{self.model}--v{self.number}"

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version. `digest` is the artifact manifest's SHA-256; `created_s` is Unix time."""

    id: VersionId
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature
    created_s: float
