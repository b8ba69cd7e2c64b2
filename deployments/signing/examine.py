"""What holds of a version's signature, and what does not. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deployments.artifacts.manifest import MANIFEST, SIGNATURE_FILE, SLSA_FILE, Manifest
from deployments.signing.bundle import SignedBundle, parse_bundle
from deployments.signing.keys import SHOWN, TrustedKey
from deployments.signing.statements import SlsaProvenance, read_provenance, signed_digests


class SignatureFault(StrEnum):
    """What can be wrong with a signature."""

    UNSIGNED = "unsigned"
    UNREADABLE = "unreadable"
    UNTRUSTED = "untrusted"
    FORGED = "forged"
    OTHER_VERSION = "other version"
    OTHER_MODEL = "other model"
    TOO_OLD = "too old"


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that is wrong, and what to do about it."""

    fault: SignatureFault
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SignedFiles:
    """The bytes of a version's manifest, and those of its signature and provenance; None where it has none."""

    manifest: bytes
    signature: bytes | None
    provenance: bytes | None

    @property
    def digest(self) -> str:
        """The version's."""
        return hashlib.sha256(self.manifest).hexdigest()


@dataclass(frozen=True, slots=True)
class SignatureDemand:
    """What a signature must be: by one of the keys, with a provenance unless that is not asked for, no older than `since`, which
    takes a provenance."""

    keys: tuple[TrustedKey, ...]
    provenance: bool = True
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SignatureFindings:
    """`signer` has signed the version's files, where it is known who; `provenance` holds where it is there. Good if no doubts."""

    signer: TrustedKey | None = None
    provenance: SlsaProvenance | None = None
    doubts: tuple[Doubt, ...] = ()


def examine(files: SignedFiles, manifest: Manifest, model: str, demand: SignatureDemand) -> SignatureFindings:
    """Whether a version with those files was signed as one of `model`. The manifest is that of its bytes; whether the files are
    those of the manifest is seen to where they are read."""
    sign = f"build it with `--sign KEY`, or sign it: `headrace model sign {model}:N --key KEY`"
    if files.signature is None and files.provenance is None:
        return SignatureFindings(doubts=(Doubt(SignatureFault.UNSIGNED, "it is not signed", sign),))
    signer, doubt = _files_signed(files, manifest, demand, sign)
    doubts = [doubt] if doubt else []
    provenance = None
    # Only the provenance tells when: who takes it away must not make an older signature count.
    if files.provenance is not None or demand.provenance or demand.since is not None:
        provenance, doubt = _provenance(files, demand, sign)
        doubts += [doubt] if doubt else []
    known_as = provenance.model if provenance else manifest.model
    if not doubts and known_as != model:
        what = f"it was signed as a version of {known_as}, not of {model}"
        doubts.append(Doubt(SignatureFault.OTHER_MODEL, what, f"register it as one of {known_as}, or {sign}"))
    if provenance and demand.since and provenance.signed_at < demand.since:
        what = f"it was signed on {_at(provenance.signed_at)}, and signatures count from {_at(demand.since)} on"
        doubts.append(Doubt(SignatureFault.TOO_OLD, what, f"take a newer version, or {sign}"))
    return SignatureFindings(signer, provenance, tuple(doubts))


def _files_signed(
    files: SignedFiles, manifest: Manifest, demand: SignatureDemand, sign: str
) -> tuple[TrustedKey | None, Doubt | None]:
    opened = _opened(SIGNATURE_FILE, files.signature, demand.keys, sign)
    if isinstance(opened, Doubt):
        return None, opened
    payload, signer = opened
    signed = signed_digests(payload)
    if signed is None:
        return signer, Doubt(SignatureFault.UNREADABLE, f"{SIGNATURE_FILE} says nothing of files", sign)
    wanted = {entry.path: entry.sha256 for entry in manifest.files} | {MANIFEST: files.digest}
    differing = _differing(wanted, signed)
    if not differing:
        return signer, None
    what = f"{SIGNATURE_FILE} is of another version: {differing}"
    return signer, Doubt(SignatureFault.OTHER_VERSION, what, f"bring back this version's own, or {sign}")


def _provenance(files: SignedFiles, demand: SignatureDemand, sign: str) -> tuple[SlsaProvenance | None, Doubt | None]:
    opened = _opened(SLSA_FILE, files.provenance, demand.keys, sign)
    if isinstance(opened, Doubt):
        return None, opened
    provenance = read_provenance(opened[0])
    if provenance is None:
        return None, Doubt(SignatureFault.UNREADABLE, f"{SLSA_FILE} says nothing of a version", sign)
    if provenance.digest != files.digest:
        what = f"{SLSA_FILE} is of another version, signed on {_at(provenance.signed_at)}: {provenance.digest[:SHOWN]}"
        return None, Doubt(SignatureFault.OTHER_VERSION, what, f"bring back this version's own, or {sign}")
    return provenance, None


def _opened(name: str, content: bytes | None, keys: Iterable[TrustedKey], sign: str) -> tuple[bytes, TrustedKey] | Doubt:
    """What is signed, and by whom."""
    if content is None:
        return Doubt(SignatureFault.UNSIGNED, f"{name} is missing", sign)
    bundle = parse_bundle(content)
    if bundle is None:
        return Doubt(SignatureFault.UNREADABLE, f"{name} can't be read: it was cut, or is none", sign)
    signer = bundle.signer(keys)
    return (bundle.payload, signer) if signer else _not_signed(name, bundle, keys, sign)


def _not_signed(name: str, bundle: SignedBundle, keys: Iterable[TrustedKey], sign: str) -> Doubt:
    named = next((key for key in keys if key.id == bundle.hint), None)
    if named is not None:
        what = f"{name} was changed: {named} has not signed what it says"
        return Doubt(SignatureFault.FORGED, what, f"bring back the file as it was, or {sign}")
    who = f"the key {bundle.hint[:SHOWN]}" if bundle.hint else "a key that it does not name"
    what = f"{name} is signed by {who}, which is not trusted for this model"
    return Doubt(SignatureFault.UNTRUSTED, what, f"name that key where the policy lists trusted ones, or {sign}")


def _differing(wanted: Mapping[str, str], signed: Mapping[str, str]) -> str:
    """The first file that was signed otherwise; empty where none was."""
    for path in sorted(wanted.keys() | signed.keys()):
        if wanted.get(path) != signed.get(path):
            return f"{path} is not what was signed" if path in signed and path in wanted else _only(path, path in wanted)
    return ""


def _only(path: str, is_there: bool) -> str:
    return f"{path} was not signed" if is_there else f"{path} was signed, and is no file of this one"


def _at(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
