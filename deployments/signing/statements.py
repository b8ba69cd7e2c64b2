"""The two statements of a version: what its files are (OpenSSF model signing), what it was made from (SLSA). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from deployments.artifacts.manifest import BESIDE, KEYS

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
FILES_TYPE = "https://model_signing/signature/v1.0"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:headrace:build:v1"


class _Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class _Digests(_Foreign):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Subject(_Foreign):
    name: str
    digest: _Digests


class _Resource(_Foreign):
    name: str
    algorithm: str
    digest: str


class _Serialization(_Foreign):
    method: str
    hash_type: str


class _Files(_Foreign):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(_Foreign):
    type_: str = Field(alias="_type")
    subject: tuple[_Subject, ...] = Field(min_length=1, max_length=1)
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any]


class Material(_Foreign):
    """Something that a version was made from: what it was for, with its name, and the SHA-256 of it."""

    name: str
    digest: _Digests


class _Definition(_Foreign):
    resolved: tuple[Material, ...] = Field(default=(), alias="resolvedDependencies")


class _Builder(_Foreign):
    id: str
    version: dict[str, str] = {}


class _Metadata(_Foreign):
    finished_on: AwareDatetime = Field(alias="finishedOn")
    signed_on: AwareDatetime = Field(alias="headrace_signed_on")


class _Run(_Foreign):
    builder: _Builder
    metadata: _Metadata


class _Slsa(_Foreign):
    definition: _Definition = Field(alias="buildDefinition")
    run: _Run = Field(alias="runDetails")


@dataclass(frozen=True, slots=True)
class SlsaProvenance:
    """What a signed statement says of a version: of which model it is, the SHA-256 of its manifest, what it was made from, by
    what, and when; and when that was signed."""

    model: str
    digest: str
    materials: Mapping[str, str]
    builder: str
    built_at: datetime
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """What a build knows of itself. `materials` are SHA-256 by what it was for and its name, `parameters` what was asked for."""

    materials: Mapping[str, str]
    parameters: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    builder: Mapping[str, str]
    built_at: str


def files_statement(model: str, digests: Mapping[str, str]) -> dict[str, Any]:
    """What a tool for OpenSSF model signing verifies; `digests` are the SHA-256 of all files by path, manifest.json's too."""
    named = sorted(digests.items(), key=lambda one: PurePosixPath(one[0]))
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": model, "digest": {"sha256": _root([digest for _, digest in named])}}],
        "predicateType": FILES_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                # For other tools. Ours never asks a signature what it may leave out.
                "ignore_paths": [*BESIDE, KEYS],
            },
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in named],
        },
    }


def signed_digests(payload: bytes) -> Mapping[str, str] | None:
    """The SHA-256 of the files by path, as such a statement has them; None where it is none."""
    statement = _read(payload, FILES_TYPE)
    try:
        files = _Files.model_validate(statement.predicate) if statement else None
        if files is None or (files.serialization.method, files.serialization.hash_type) != ("files", "sha256"):
            return None
        digests = {one.name: one.digest for one in files.resources}
        whole = len(digests) == len(files.resources) and {one.algorithm for one in files.resources} == {"sha256"}
        same = statement is not None and _root([one.digest for one in files.resources]) == statement.subject[0].digest.sha256
    except ValueError:  # pydantic's own is one
        return None
    return digests if whole and same else None


def provenance_statement(model: str, digest: str, facts: BuildFacts, signed_at: datetime) -> dict[str, Any]:
    """What a version is and was made from, bound to its model and the SHA-256 of its manifest."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": model, "digest": {"sha256": digest}}],
        "predicateType": PROVENANCE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"model": model, **facts.parameters},
                "internalParameters": {"steps": [dict(step) for step in facts.steps]},
                "resolvedDependencies": [
                    {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(facts.materials.items())
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:headrace:builder", "version": dict(facts.builder)},
                "metadata": {
                    "finishedOn": facts.built_at,
                    "headrace_signed_on": signed_at.isoformat(timespec="seconds"),
                },
            },
        },
    }


def signed_anew(payload: bytes, signed_at: datetime) -> dict[str, Any]:
    """The same provenance, to be signed at another time: what a version was made from stays as it was told. `payload` is one that
    `read_provenance` reads."""
    statement: dict[str, Any] = orjson.loads(payload)
    statement["predicate"]["runDetails"]["metadata"]["headrace_signed_on"] = signed_at.isoformat(timespec="seconds")
    return statement


def read_provenance(payload: bytes) -> SlsaProvenance | None:
    """What such a statement says; None where it is none."""
    statement = _read(payload, PROVENANCE_TYPE)
    try:
        slsa = _Slsa.model_validate(statement.predicate) if statement else None
    except ValidationError:
        return None
    if statement is None or slsa is None:
        return None
    subject, run = statement.subject[0], slsa.run
    return SlsaProvenance(
        model=subject.name,
        digest=subject.digest.sha256,
        materials={one.name: one.digest.sha256 for one in slsa.definition.resolved},
        builder=", ".join(f"{name} {value}" for name, value in run.builder.version.items()) or run.builder.id,
        built_at=run.metadata.finished_on,
        signed_at=run.metadata.signed_on,
    )


def _read(payload: bytes, predicate_type: str) -> _Statement | None:
    try:
        statement = _Statement.model_validate_json(payload)
    except ValidationError:
        return None
    known = (statement.type_, statement.predicate_type) == (STATEMENT_TYPE, predicate_type)
    return statement if known else None


def _root(digests: list[str]) -> str:
    """One digest of all, in their order. Raises ValueError where one is no hex."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
