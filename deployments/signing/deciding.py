"""What a node's policy says of one version: to go on, a word in the log, or a refusal."""

from __future__ import annotations

import logging
from pathlib import Path

from cluster.errors import BadArtifact, HeadraceError
from deployments.artifacts.manifest import parse_manifest
from deployments.artifacts.roots import local_path
from deployments.signing.examine import Doubt, SignatureDemand, examine
from deployments.signing.files import signed_files
from deployments.signing.policy import SigningMode, demand_of, read_policy

_log = logging.getLogger(__name__)


def decide(policy: Path, uri: str, digest: str, model: str, copy: Path | None) -> None:
    """Raises BadArtifact for a version that the policy refuses, BadInput for a policy that makes no sense. `copy` is where its
    files are, verified, unless that is `uri`."""
    rule = read_policy(policy).rule_for(model)
    if rule is None:
        return
    demand = demand_of(rule, policy)
    doubt = _doubt(uri, digest, model, demand, copy)
    if doubt is not None and copy is not None and local_path(uri) is None:
        try:
            doubt = _doubt(uri, digest, model, demand, None)
        except HeadraceError as error:
            # A warning keeps nothing from opening that is here, wherever its place has gone.
            if rule.mode is SigningMode.ENFORCE:
                raise
            _log.warning("%s, %s: whether it was signed since is not known: %s", model, uri, error)
    if doubt is None:
        return
    if rule.mode is SigningMode.ENFORCE:
        raise BadArtifact(f"refused by the signing policy: {doubt.what}", where=f"{model}, {uri}", remedy=doubt.remedy)
    _log.warning("%s, %s: %s, which the signing policy warns of (%s)", model, uri, doubt.what, doubt.remedy)


def _doubt(uri: str, digest: str, model: str, demand: SignatureDemand, copy: Path | None) -> Doubt | None:
    """The first thing that is wrong, by what lies where the files are. Raises BadArtifact for another version than `digest`'s."""
    files = signed_files(str(copy or uri))
    if files.digest != digest:
        raise BadArtifact(
            "its manifest has another digest than the registered one",
            where=uri,
            remedy="restore the version that was registered, or register this one",
        )
    found = examine(files, parse_manifest(files.manifest, uri), model, demand)
    return next(iter(found.doubts), None)
