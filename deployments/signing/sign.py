"""Signs a version: what its files are, and what it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from deployments.artifacts.manifest import MANIFEST, SIGNATURE_FILE, SLSA_FILE, Manifest
from deployments.artifacts.package import Attest
from deployments.signing.bundle import bundled, parse_bundle
from deployments.signing.examine import SignedFiles
from deployments.signing.keys import PrivateSigningKey
from deployments.signing.statements import BuildFacts, files_statement, provenance_statement, signed_anew


def signatures(files: Manifest, content: bytes, key: PrivateSigningKey, facts: BuildFacts, model: str) -> dict[str, bytes]:
    """The files that sign the version with that manifest, `content` as it stands, as one of `model`: by name."""
    digest = hashlib.sha256(content).hexdigest()
    return {
        SLSA_FILE: bundled(provenance_statement(model, digest, facts, datetime.now(UTC)), key),
        SIGNATURE_FILE: _files_signed(files, digest, key, model),  # last, as below
    }


def renewed(manifest: Manifest, files: SignedFiles, key: PrivateSigningKey, model: str) -> dict[str, bytes]:
    """The files that sign a version with another key, by name: its provenance, where it has one, says what it said. `files` are
    to be examined before: whatever stands in them is signed.

    In the order in which they are to be written: by the signature, which is last, it is seen that both were.
    """
    bundle = parse_bundle(files.provenance) if files.provenance is not None else None
    provenance = {SLSA_FILE: bundled(signed_anew(bundle.payload, datetime.now(UTC)), key)} if bundle is not None else {}
    return {**provenance, SIGNATURE_FILE: _files_signed(manifest, files.digest, key, model)}


def _files_signed(manifest: Manifest, digest: str, key: PrivateSigningKey, model: str) -> bytes:
    digests = {entry.path: entry.sha256 for entry in manifest.files} | {MANIFEST: digest}
    return bundled(files_statement(model, digests), key)


def attesting(key: PrivateSigningKey, report: Mapping[str, Any]) -> Attest:
    """What signs a version as it is packaged; `report` is report.json's data."""

    def attest(manifest: Manifest, content: bytes) -> Mapping[str, bytes]:
        return signatures(manifest, content, key, build_facts(manifest, report), manifest.model)

    return attest


def build_facts(manifest: Manifest, report: Mapping[str, Any] | None) -> BuildFacts:
    """What the version's own files say of its making; `report` is report.json's data, where it is at hand. Names of files and
    digests, never a path or a row; of a sealed version digests alone."""
    told = report or {}
    training = told.get("training") or {}
    data = told.get("data") or {}
    source = told.get("source") or manifest.source
    materials = _sources(source)
    materials |= {f"training:{_name(path)}": digest for path, digest in (training.get("data") or {}).items()}
    if data.get("file") and data.get("sha256"):
        materials[f"evaluation:{_name(data['file'])}"] = data["sha256"]
    machine = {name: str(value) for name, value in (told.get("machine") or {}).items() if name != "cores"}
    facts = BuildFacts(
        materials=materials,
        parameters={"engine": manifest.engine, "source": str(source.get("kind", ""))}
        | {name: training[name] for name in ("function", "seed") if training.get(name) is not None},
        steps=manifest.steps,
        builder={"headrace": version("headrace"), **machine},
        built_at=manifest.created_at,
    )
    return facts if manifest.seal is None else _without_names(facts)


def _without_names(facts: BuildFacts) -> BuildFacts:
    """Files and functions are called after what they are for: a sealed version keeps that to itself."""
    numbered = enumerate(facts.materials.items(), 1)
    materials = {f"{name.partition(':')[0]}:{number}": digest for number, (name, digest) in numbered}
    return replace(facts, materials=materials, parameters={"engine": facts.parameters["engine"]}, steps=())


def _sources(source: Mapping[str, Any]) -> dict[str, str]:
    """The source's own file, and where that came from."""
    parts = {"": source, **{name: part for name, part in source.items() if isinstance(part, Mapping)}}
    return {
        f"source:{name or _name(str(part.get('file') or part.get('kind') or 'source'))}": str(part["sha256"])
        for name, part in parts.items()
        if part.get("sha256")
    }


def _name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
