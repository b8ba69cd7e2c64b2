"""The artifact: a directory that holds one immutable version.

    manifest.json   what is in it: signature, engine, steps, source, and the SHA-256 of every other file
    model.onnx      (engine onnx) or model.pt2 (engine torch), with any external data beside it
    samples.npz     sample rows: `in.NAME` and `out.NAME` arrays, replayed at load
    report.json     how it was evaluated

Content-addressed: its digest is the SHA-256 of manifest.json's bytes, and its folder is named by it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from cluster.signature import Signature

MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
REPORT = "report.json"


class FileEntry(BaseModel):
    """One file of an artifact, by its path below the artifact's directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    size_bytes: int


class Manifest(BaseModel):
    """manifest.json. `sample_tolerance` is what replayed answers may differ by, absolute and relative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    model: str
    engine: str
    signature: Signature
    files: tuple[FileEntry, ...]
    source: dict[str, Any]
    steps: tuple[dict[str, Any], ...] = ()
    sample_tolerance: float = 1e-4
    created_at: str
