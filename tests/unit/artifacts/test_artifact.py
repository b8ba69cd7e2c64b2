from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest

from cluster.errors import BadArtifact, NoCapacity, Unreachable
from deployments.artifacts.fetch import localize, remove
from deployments.artifacts.manifest import MANIFEST, read_manifest, verify
from deployments.artifacts.package import write_artifact
from deployments.artifacts.registered import check_registered
from deployments.artifacts.roots import below
from deployments.artifacts.samples import Samples, read_samples
from deployments.artifacts.version_files import open_folder
from deployments.engines.load import load_engine
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows


def test_is_found_by_its_digest(tmp_path: Path) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path)
    assert Path(uri) == tmp_path / "digits" / digest
    assert hashlib.sha256((Path(uri) / MANIFEST).read_bytes()).hexdigest() == digest
    assert read_manifest(Path(uri)) == manifest == verify(Path(uri), digest)
    assert localize(uri, digest) == Path(uri)
    assert {entry.path for entry in manifest.files} == {"model.onnx", "samples.npz", "report.json"}


@pytest.mark.parametrize("name", ["model.onnx", "samples.npz", "report.json"])
def test_damage_names_the_file(tmp_path: Path, name: str) -> None:
    uri, digest, _ = mlp_artifact(tmp_path)
    with (Path(uri) / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadArtifact, match=name):
        verify(Path(uri), digest)


def test_another_manifest_is_refused(tmp_path: Path) -> None:
    uri, _, _ = mlp_artifact(tmp_path)
    with pytest.raises(BadArtifact, match="not the registered one"):
        verify(Path(uri), "0" * 64)


@pytest.mark.parametrize("path", [b"../model.onnx", b"/model.onnx", rb"a\u0000b", b""])
def test_a_manifest_cannot_point_outside(tmp_path: Path, path: bytes) -> None:
    uri, _, _ = mlp_artifact(tmp_path)
    manifest = Path(uri) / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b'"model.onnx"', b'"%s"' % path))
    with pytest.raises(BadArtifact, match="leaves the artifact"):
        verify(Path(uri))


@pytest.mark.parametrize("name", ["", MANIFEST])
def test_no_artifact_is_said(tmp_path: Path, name: str) -> None:
    if name:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadArtifact, match="manifest"):
        read_manifest(tmp_path)


def test_a_remote_artifact_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pyarrow's own file system behind a name that is not local stands for S3 and the like.
    uri, digest, _ = mlp_artifact(tmp_path / "far")
    monkeypatch.setattr("deployments.artifacts.fetch.remote", lambda uri: (pafs.LocalFileSystem(), uri.removeprefix("far://")))
    cache = tmp_path / "cache"
    local = localize(f"far://{uri}", digest, cache=cache)
    assert local == cache / digest
    shutil.rmtree(uri)
    assert localize(f"far://{uri}", digest, cache=cache) == local
    assert [path.name for path in cache.iterdir()] == [digest]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deployments.artifacts.package.shutil.copyfile", full)
    with pytest.raises(NoCapacity, match="free some space"):
        mlp_artifact(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_removed_is_gone_and_removing_again_is_harmless(tmp_path: Path) -> None:
    uri, _, _ = mlp_artifact(tmp_path)
    remove(uri)
    remove(uri)
    assert not Path(uri).exists()


def test_bytes_survive_as_samples(tmp_path: Path) -> None:
    words = np.empty((3,), dtype=np.object_)
    words[:] = [b"a\x00", b"", "ü".encode()]
    model = tmp_path / "model.onnx"
    model.write_bytes(b"never read here")
    written = write_artifact(
        tmp_path / "root",
        model="words",
        engine="onnx",
        signature=SIGNATURE,
        files={"model.onnx": model},
        samples=Samples(inputs={"word": words, INPUT: rows(3)}, outputs={OUTPUT: rows(3)}),
        report={},
        source={},
    )
    found = read_samples(Path(written.uri))
    assert found.inputs["word"].tolist() == words.tolist()
    np.testing.assert_array_equal(found.inputs[INPUT], rows(3))


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_a_version_is_registered_only_where_its_artifact_stands(tmp_path: Path, place: str) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path)
    check_registered(place.format(uri), digest, "onnx", manifest.signature)
    (Path(uri) / "report.json").unlink()
    with pytest.raises(BadArtifact, match=r"report\.json is missing"):
        check_registered(place.format(uri), digest, "onnx", manifest.signature)


def test_a_version_is_registered_only_as_what_its_artifact_is(tmp_path: Path) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path)
    other = manifest.signature.model_copy(update={"outputs": manifest.signature.inputs})
    for place, its_digest, engine, signature, words in (
        ("/etc", digest, "onnx", manifest.signature, "no manifest"),
        (str(tmp_path / "nowhere"), digest, "onnx", manifest.signature, "no manifest"),
        (uri, "0" * 64, "onnx", manifest.signature, "another digest"),
        (uri, digest, "torch", manifest.signature, "another engine or signature"),
        (uri, digest, "onnx", other, "another engine or signature"),
    ):
        with pytest.raises(BadArtifact, match=words):
            check_registered(place, its_digest, engine, signature)


def test_a_folder_that_is_not_there_is_told_as_a_disk_that_may_come_back(tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path)
    Path(uri).rename(tmp_path / "elsewhere")
    with pytest.raises(Unreachable, match=r"there is no such folder \(mount the disk that has it"):
        localize(uri, digest)
    Path(uri).mkdir()
    with pytest.raises(BadArtifact, match=r"this is no artifact \(build the version again"):
        localize(uri, digest)


def test_a_file_that_can_not_be_read_now_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, digest, _ = mlp_artifact(tmp_path)
    opened = open_folder(Path(uri), digest)
    unreadable: set[str] = {"model.onnx"}
    really = Path.open

    def stale(path: Path, *given: Any, **named: Any) -> Any:
        if path.name in unreadable:
            raise OSError(errno.ESTALE, "Stale file handle")
        return really(path, *given, **named)

    monkeypatch.setattr(Path, "open", stale)
    for read in (lambda: localize(uri, digest), lambda: load_engine(opened)):
        with pytest.raises(Unreachable, match=r"model\.onnx can't be read: .*Stale file handle \(mount the disk that has it"):
            read()
    unreadable.clear()
    (Path(uri) / "model.onnx").unlink()
    for read in (lambda: localize(uri, digest), lambda: load_engine(opened)):
        with pytest.raises(BadArtifact, match=r"model\.onnx is missing"):
            read()
    Path(uri).rename(tmp_path / "unmounted")
    with pytest.raises(Unreachable, match="can't be read"):  # its disk has gone in the midst of it
        load_engine(opened)


@pytest.mark.parametrize(
    ("root", "uri"),
    [
        ("s3://bucket/models", "s3://bucket/models/m/d"),
        ("s3://bucket/models/", "s3://bucket/models/m/d"),
        ("s3://bucket/models?scheme=http&region=r", "s3://bucket/models/m/d?scheme=http&region=r"),
    ],
)
def test_what_a_uri_says_of_its_store_stays_at_the_end(root: str, uri: str) -> None:
    assert below(root, "m", "d") == uri
