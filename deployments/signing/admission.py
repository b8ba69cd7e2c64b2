"""Lets a version be registered, and again be opened, only as this node's policy says."""

from __future__ import annotations

from pathlib import Path

from deployments.artifacts.fetch import localize
from deployments.artifacts.version_files import VersionFiles, open_folder
from deployments.signing.node_policy import policy_file


def check_admitted(uri: str, digest: str, model: str) -> None:
    """Whether the policy lets the version at `uri` be one of `model`: read where it lies, without its files.

    Raises BadArtifact for one that it refuses, which says what is wrong and what to do; BadInput for a policy that makes no
    sense; Unreachable. What the policy only warns of is logged.
    """
    _decide(uri, digest, model, None)


def admitted_copy(uri: str, digest: str, model: str) -> Path:
    """As `localize`, of a version that this node's policy lets be opened as one of `model`. Raises as both do.

    Its signature is read beside the files that are opened; one that was made after they were fetched, where they came from.
    """
    copy = localize(uri, digest)
    _decide(uri, digest, model, copy)
    return copy


def open_admitted(uri: str, digest: str, model: str) -> VersionFiles:
    """The files of `admitted_copy`, its manifest checked against the same digest once more as it is read. Raises as that does."""
    return open_folder(admitted_copy(uri, digest, model), digest)


def _decide(uri: str, digest: str, model: str, copy: Path | None) -> None:
    policy = policy_file()
    if policy is not None:
        from deployments.signing.deciding import decide  # cryptography, which whoever asks for no signatures goes without

        decide(policy, uri, digest, model, copy)
