"""Small signed versions, made in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deployments.artifacts.manifest import Manifest, manifest_bytes, parse_manifest
from deployments.signing.examine import SignedFiles
from deployments.signing.files import signed_files, write_beside
from deployments.signing.keys import PrivateSigningKey, TrustedKey, new_signing_key, signing_key, trusted_key
from deployments.signing.sign import build_facts, signatures
from tests.support.models import mlp_artifact


@dataclass(frozen=True)
class KeyPair:
    """A signing key, and what trusts it."""

    private_pem: bytes
    public_pem: bytes

    @property
    def private(self) -> PrivateSigningKey:
        """What signs."""
        return signing_key(self.private_pem, "here")

    @property
    def public(self) -> TrustedKey:
        """What it is known by."""
        return trusted_key(self.public_pem, "release", "here")


def key_pair() -> KeyPair:
    """A new one."""
    return KeyPair(*new_signing_key())


@dataclass(frozen=True)
class LocalVersion:
    """A version in a folder."""

    uri: str
    digest: str
    manifest: Manifest

    @property
    def files(self) -> SignedFiles:
        """As they lie there."""
        return signed_files(self.uri)

    def sign(self, key: KeyPair, model: str = "digits") -> None:
        """Signs it as one of `model`."""
        content = manifest_bytes(Path(self.uri))
        facts = build_facts(self.manifest, None)
        write_beside(self.uri, signatures(parse_manifest(content, self.uri), content, key.private, facts, model))


def local_version(root: Path, key: KeyPair | None = None, *, model: str = "digits", seed: int = 0) -> LocalVersion:
    """A version of `model`, signed where there is a key."""
    version = LocalVersion(*mlp_artifact(root, model, seed))
    if key is not None:
        version.sign(key, model)
    return version


def policy_at(file: Path, mode: str, *keys: KeyPair, models: str = "*", more: str = "") -> Path:
    """A signing policy with one rule, its keys beside it."""
    names = []
    for number, key in enumerate(keys):
        (file.parent / f"key{number}.pub").write_bytes(key.public_pem)
        names.append(f"key{number}.pub")
    listed = f", keys: [{', '.join(names)}]" if names else ""
    file.write_text(f"kind: Signing\nrules:\n  - {{models: ['{models}'], mode: {mode}{listed}{more}}}\n")
    return file
