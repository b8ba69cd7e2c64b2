"""A version looked at, without a network where it can be: who signed it, what it was made from, what is not as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import BadArtifact, NotFound
from cluster.store.sql import SqlStore
from deployments.artifacts.fetch import localize
from deployments.artifacts.manifest import MANIFEST, Manifest, file_digest, manifest_bytes, parse_manifest
from deployments.artifacts.roots import local_path
from deployments.signing.examine import SignatureDemand, SignatureFindings, SignedFiles, examine
from deployments.signing.files import signed_files
from deployments.signing.keys import TrustedKey
from deployments.signing.node_policy import policy_file
from deployments.signing.policy import SigningMode, SigningRule, demand_of, read_policy
from headrace.client import ControlClient
from headrace.local.declared.policies import declared_in
from headrace.local.home import Settings
from headrace.local.run_state import load_run
from headrace.signing.key_files import signing_keys


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version as it is registered, or as it lies in a folder; then it has no number."""

    model: str
    number: int | None
    uri: str
    digest: str

    def __str__(self) -> str:
        return f"{self.model} version {self.number}" if self.number is not None else f"{self.model} in {self.uri}"


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What was found in `files`. `altered` says of each file of the version what is not as its manifest has it."""

    version: KnownVersion
    files: SignedFiles
    manifest: Manifest
    findings: SignatureFindings
    altered: tuple[str, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """All that does not hold; empty where everything does."""
        return (*(doubt.what for doubt in self.findings.doubts), *self.altered)


def find_version(model: str, number: int | None, settings: Settings) -> KnownVersion:
    """The version of that number, the newest without one; otherwise as `find_versions`."""
    return find_versions(model, number, settings)[-1]


def find_versions(model: str, number: int | None, settings: Settings) -> list[KnownVersion]:
    """The version of that number, all without one, the newest last; `model` may be a version's folder instead.

    A home's own store is read itself, so nothing needs to run; a service that is named by its address is asked. Raises NotFound
    where there is none.
    """
    folder = Path(model)
    if (folder / MANIFEST).is_file():
        content = manifest_bytes(folder)
        name = parse_manifest(content, model).model
        return [KnownVersion(name, None, str(folder.absolute()), hashlib.sha256(content).hexdigest())]
    kept = settings.home.store.exists() or not settings.store_url.startswith("sqlite")
    found = _stored(model, settings) if settings.url is None and kept else _asked(model)
    wanted = [one for one in found if number in (None, one.number)]
    if not wanted:
        known = ", ".join(str(one.number) for one in found) or "none"
        raise NotFound(f"no version {number or ''}".strip(), where=model, remedy=f"its versions: {known}")
    return wanted


def trusted_for(model: str, named: Iterable[TrustedKey], settings: Settings) -> SignatureDemand:
    """What counts: the keys that are named; else what the policy of this environment, or of what runs here, asks of the model;
    else the home's own keys. Raises BadInput, NotFound."""
    keys = tuple(named)
    if keys:
        return SignatureDemand(keys)
    asked = _rule_here(model, settings)
    return demand_of(*asked) if asked else SignatureDemand(tuple(one.trusted for one in signing_keys(settings.home)))


def must_be_signed(model: str, settings: Settings) -> bool:
    """Whether the policy of this environment, or of what runs here, takes no version of the model without. Raises BadInput."""
    asked = _rule_here(model, settings)
    return asked is not None and asked[0].mode is SigningMode.ENFORCE


def _rule_here(model: str, settings: Settings) -> tuple[SigningRule, Path] | None:
    """The rule that counts for the model, and the policy's file; None where nothing is asked of it."""
    state = load_run(settings.home)
    runs_with = state.options.signing if state is not None and state.options is not None else ""
    declared = runs_with or declared_in(settings.home).signing
    file = policy_file() or (Path(declared) if declared else None)
    rule = read_policy(file).rule_for(model) if file is not None else None
    return (rule, file) if rule is not None and file is not None else None


def look_at(version: KnownVersion, demand: SignatureDemand) -> LookedAt:
    """Reads every byte of the version. Raises Unreachable, BadArtifact where it is no version."""
    seen = look_at_signature(version, demand)
    local = local_path(version.uri)
    if local is None:  # verified as it is brought here
        localize(version.uri, version.digest)
        return seen
    altered = (_altered(local / entry.path, entry.path, entry.sha256) for entry in seen.manifest.files)
    return replace(seen, altered=tuple(one for one in altered if one))


def look_at_signature(version: KnownVersion, demand: SignatureDemand) -> LookedAt:
    """Reads the version's manifest and signature, and none of its files. Raises as `look_at`."""
    files = signed_files(version.uri)
    manifest = parse_manifest(files.manifest, version.uri)
    if files.digest != version.digest:
        raise BadArtifact(
            f"its manifest is another than was registered: {files.digest[:16]}, not {version.digest[:16]}",
            where=str(version),
            remedy="restore the version's files, or build it again",
        )
    return LookedAt(version, files, manifest, examine(files, manifest, version.model, demand), ())


def _altered(file: Path, name: str, sha256: str) -> str:
    """What is not as it was; empty where nothing is."""
    try:
        return "" if file_digest(file) == sha256 else f"{name} was changed: its digest differs"
    except OSError as error:
        return f"{name} can't be read: {error.strerror}"


def _stored(model: str, settings: Settings) -> list[KnownVersion]:
    store = SqlStore(settings.store_url)
    try:
        found = store.load().versions.of(model)
    finally:
        store.close()
    return [KnownVersion(model, one.id.number, one.artifact_uri, one.digest) for one in found]


def _asked(model: str) -> list[KnownVersion]:
    with ControlClient.from_environment() as client:
        found = client.model(model).versions
    return sorted(
        (KnownVersion(model, one.version, one.artifact_uri, one.digest) for one in found), key=lambda one: one.number or 0
    )
