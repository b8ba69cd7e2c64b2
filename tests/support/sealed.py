"""Sealed versions of the small artifacts, and keys for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deployments.artifacts.manifest import DESCRIBING, MANIFEST, read_manifest
from deployments.artifacts.package import Artifact, write_artifact
from deployments.artifacts.profile import read_profile
from deployments.artifacts.samples import read_samples
from deployments.artifacts.version_files import open_folder
from deployments.keys.hpke_key import HpkeKey, new_hpke_pair
from deployments.keys.port import KeyHolder
from deployments.keys.ring import VARIABLE
from deployments.keys.secret_file import write_once

PAGE_TEXT = "<p>how it was evaluated</p>"


class OwnKeys:
    """A folder with the keys of this machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(VARIABLE, f"file:{folder}")

    def new(self, name: str = "own") -> HpkeKey:
        """Makes a key, and gives what a build host has of it: the public half."""
        return key_in(self.folder, name)


def key_in(folder: Path, name: str) -> HpkeKey:
    """Makes a key in the folder, as NAME.key, and gives the public half."""
    private, public = new_hpke_pair()
    write_once(folder / f"{name}.key", private)
    return HpkeKey.of_pem(public, name)


def told_anew(folder: Path) -> Path:
    """The version as somebody would hand it out who has no key: its manifest tells the digests of the files as they are now."""
    manifest = read_manifest(folder)
    entries = []
    for entry in manifest.files:
        content = (folder / entry.path).read_bytes()
        entries.append(entry.model_copy(update={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}))
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"files": tuple(entries)}).content)
    return folder


def sealed_copy(plain: Path, root: Path, *holders: KeyHolder) -> Artifact:
    """The same version, sealed."""
    files = open_folder(plain)
    manifest = files.manifest
    return write_artifact(
        root,
        model=manifest.model,
        engine=manifest.engine,
        signature=manifest.signature,
        files={name: plain / name for name in files.names if name not in DESCRIBING},
        samples=read_samples(plain),
        report={},
        page=PAGE_TEXT,
        profile=read_profile(plain),
        source=manifest.source,
        steps=manifest.steps,
        seal_for=holders,
    )
