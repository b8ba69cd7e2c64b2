from __future__ import annotations

import hashlib
import io
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadArtifact, BadInput, Conflict, Forbidden
from deployments.artifacts import places
from deployments.artifacts.background import read_background
from deployments.artifacts.cache import ArtifactCache, CacheSettings
from deployments.artifacts.fetch import localize
from deployments.artifacts.manifest import DESCRIBING, KEYS, MANIFEST, PROVENANCE, Manifest, read_manifest, verify
from deployments.artifacts.package import Artifact, write_artifact
from deployments.artifacts.profile import fetch_profile, read_profile
from deployments.artifacts.registered import check_registered
from deployments.artifacts.samples import read_samples
from deployments.artifacts.sealing.chunks import open_sealed, plain_bytes, write_sealed
from deployments.artifacts.sealing.making import seal_files
from deployments.artifacts.sealing.rewrapping import rewrap
from deployments.artifacts.sealing.wraps import SealKeys, wrap_info
from deployments.artifacts.version_files import VersionFiles, open_folder, open_version
from deployments.builder.report import read_report
from deployments.engines.load import load_engine
from deployments.explain.form import Background, ExplainMethod
from deployments.keys.hpke_key import HpkeKey
from deployments.keys.ring import VARIABLE, KeyRing
from deployments.profiles.making import make_profile
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows
from tests.support.sealed import OwnKeys, told_anew

SECRET = b"a private path"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnKeys:
    return OwnKeys(tmp_path / "keys", monkeypatch)


def sealed_artifact(root: Path, *holders: HpkeKey, seed: int = 0) -> Artifact:
    """A real network's version with everything that one may have, sealed."""
    plain = Path(mlp_artifact(root / "plain", seed=seed)[0])
    inputs = {INPUT: rows(100)}
    answers = load_engine(plain).score(inputs)
    return write_artifact(
        root / "sealed",
        model="digits",
        engine="onnx",
        signature=SIGNATURE,
        files={"model.onnx": plain / "model.onnx"},
        samples=read_samples(plain),
        report={"secret": SECRET.decode()},
        page=f"<p>{SECRET.decode()}</p>",
        profile=make_profile(SIGNATURE, inputs, answers, classes=answers[OUTPUT].argmax(axis=1)),
        background=Background({INPUT: rows(8)}, works=(ExplainMethod.SHAPLEY,)),
        source={"file": SECRET.decode()},
        steps=({"step": "import"},),
        seal_for=holders,
    )


def test_a_sealed_version_answers_as_the_plain_one_and_shows_nothing(tmp_path: Path, keys: OwnKeys) -> None:
    artifact = sealed_artifact(tmp_path, keys.new("a"))
    folder, plain = Path(artifact.uri), next((tmp_path / "plain" / "digits").iterdir())
    assert verify(folder, artifact.digest) == artifact.manifest == read_manifest(folder)
    assert {entry.path for entry in artifact.manifest.files} == {"model.onnx", *DESCRIBING}
    assert (artifact.manifest.source, artifact.manifest.steps) == ({}, ())
    check_registered(artifact.uri, artifact.digest, "onnx", SIGNATURE)
    weights = (plain / "model.onnx").read_bytes()
    for file in folder.iterdir():
        content = file.read_bytes()
        assert SECRET not in content
        assert weights[5000:5032] not in content

    files = open_folder(folder, artifact.digest)
    image = rows(16, seed=5)
    np.testing.assert_array_equal(
        load_engine(files).score({INPUT: image})[OUTPUT], load_engine(plain).score({INPUT: image})[OUTPUT]
    )
    np.testing.assert_array_equal(read_samples(folder).inputs[INPUT], read_samples(plain).inputs[INPUT])
    assert files.provenance.source == {"file": SECRET.decode()}
    assert [step["step"] for step in files.provenance.steps] == ["import"]
    assert read_background(folder).count == 8
    for profile in (read_profile(folder), fetch_profile(artifact.uri, artifact.digest)):
        assert profile is not None
        assert profile.summary.rows == 100
    with pytest.raises(BadArtifact, match="report makes no sense"):
        read_report(folder)  # it was read: this one is a test's
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    assert int(Path("/proc/self/coredump_filter").read_text(), 16) == 0


def test_a_plain_version_is_written_as_before(tmp_path: Path) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path)
    assert manifest.format == 1
    assert b"seal" not in (Path(uri) / MANIFEST).read_bytes()
    assert Manifest.model_validate_json((Path(uri) / MANIFEST).read_bytes()) == manifest
    assert not (Path(uri) / KEYS).exists()
    assert not (Path(uri) / PROVENANCE).exists()
    assert verify(Path(uri), digest) == manifest


def test_without_the_key_everything_is_refused_in_words(tmp_path: Path, keys: OwnKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.new("a")
    artifact = sealed_artifact(tmp_path, key)
    for reference in (f"file:{tmp_path / 'none'}", "env:NOBODYS"):
        monkeypatch.setenv(VARIABLE, reference)
        for read in (load_engine, read_samples, read_profile, read_background, read_report):
            with pytest.raises(Forbidden, match="no key of this machine opens it") as refused:
                read(Path(artifact.uri))
            assert key.key_id in refused.value.remedy
    assert verify(Path(artifact.uri), artifact.digest)  # what takes no key still works
    monkeypatch.setenv(VARIABLE, f"file:{keys.folder}")
    (keys.folder / "a.key").chmod(0o644)
    with pytest.raises(Conflict, match="others than this user"):
        load_engine(Path(artifact.uri))


def _cut(content: bytes) -> bytes:
    return content[: 56 + 16400 * 3]  # at the end of a chunk


def _reordered(content: bytes) -> bytes:
    first, second = content[56 : 56 + 16400], content[56 + 16400 : 56 + 32800]
    return content[:56] + second + first + content[56 + 32800 :]


def _changed(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [_cut, _reordered, _changed, lambda content: content + b"more", lambda _: b""])
def test_a_file_that_was_cut_reordered_or_changed_does_not_open(tmp_path: Path, keys: OwnKeys, damage: object) -> None:
    folder = Path(sealed_artifact(tmp_path, keys.new("a")).uri)
    file = folder / "model.onnx"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(BadArtifact, match=r"model\.onnx is damaged"):
        load_engine(folder)
    with pytest.raises(BadArtifact, match=r"model\.onnx does not open"):
        load_engine(told_anew(folder))


def test_files_of_another_version_or_name_do_not_open(tmp_path: Path, keys: OwnKeys) -> None:
    key = keys.new("a")
    one, other = (Path(sealed_artifact(tmp_path / str(seed), key, seed=seed).uri) for seed in (0, 1))
    mixed = shutil.copytree(one, tmp_path / "mixed")
    shutil.copy(other / "model.onnx", mixed / "model.onnx")
    with pytest.raises(BadArtifact, match=r"model\.onnx does not open"):
        load_engine(told_anew(mixed))
    # Even with its keys beside it: a wrap belongs to the version, and a file to its name.
    shutil.copy(other / KEYS, mixed / KEYS)
    with pytest.raises(Forbidden, match="no key of this machine opens it"):
        load_engine(mixed)
    swapped = shutil.copytree(one, tmp_path / "swapped")
    shutil.copy(one / "report.html", swapped / "report.json")
    with pytest.raises(BadArtifact, match=r"report\.json does not open"):
        open_folder(told_anew(swapped)).read("report.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "bad keys.json"), (b'{"format": 2, "wraps": []}', "format 2 is unknown"), (None, "keys.json is missing")],
)
def test_keys_that_make_no_sense_are_told(tmp_path: Path, keys: OwnKeys, content: bytes | None, says: str) -> None:
    folder = Path(sealed_artifact(tmp_path, keys.new("a")).uri)
    (folder / KEYS).unlink() if content is None else (folder / KEYS).write_bytes(content)
    with pytest.raises(BadArtifact, match=says):
        read_samples(folder)


def test_a_wrap_of_what_is_no_key_is_told(tmp_path: Path, keys: OwnKeys) -> None:
    """Who can write keys.json can wrap anything for a public key."""
    key = keys.new("a")
    artifact = sealed_artifact(tmp_path, key)
    seal = artifact.manifest.seal
    assert seal is not None
    short = SealKeys(wraps=(key.wrap(b"short", wrap_info(seal, artifact.manifest.model)),))
    (Path(artifact.uri) / KEYS).write_bytes(short.content)
    with pytest.raises(BadArtifact, match=r"keys\.json wraps what is no key"):
        load_engine(open_folder(Path(artifact.uri), artifact.digest))
    with pytest.raises(BadArtifact, match=r"keys\.json wraps what is no key"):
        rewrap(open_folder(Path(artifact.uri)), [key], KeyRing.from_environment())


def test_another_key_takes_the_place_of_one_and_no_digest_changes(
    tmp_path: Path, keys: OwnKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = sealed_artifact(tmp_path, keys.new("old"))
    folder, new = Path(artifact.uri), keys.new("new")
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != KEYS}
    files, synced = open_folder(folder, artifact.digest), list[tuple[str, bytes]]()
    monkeypatch.setattr(places, "sync_file", lambda path: synced.append((str(path), (folder / KEYS).read_bytes())))
    was, now = rewrap(files, [new], KeyRing.from_environment())
    # On the disk before they take the place of the only keys there were, and then their name.
    assert [content for _, content in synced] == [was.content, now.content]
    assert [Path(path).parent for path, _ in synced] == [folder, folder.parent]
    assert [one.key for one in now.wraps] == [new.key_id] != [one.key for one in was.wraps]
    assert files.seal_keys() == now
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.name != KEYS} == before
    monkeypatch.setenv(VARIABLE, f"file:{keys.folder / 'old.key'}")
    with pytest.raises(Forbidden):
        load_engine(open_folder(folder, artifact.digest))
    monkeypatch.setenv(VARIABLE, f"file:{keys.folder / 'new.key'}")
    load_engine(open_folder(folder, artifact.digest))
    third = keys.new("third")

    def never(name: str) -> io.BufferedIOBase:
        raise AssertionError(f"{name} is read")

    assert len(rewrap(files, [third], KeyRing.from_environment(), keep=True)[1].wraps) == 2
    with pytest.raises(BadInput, match="nobody could open it"):
        rewrap(files, [], KeyRing.from_environment())
    with pytest.raises(Conflict, match="registry"):
        rewrap(VersionFiles(artifact.manifest, "oci://host/name@sha256:0", never), [third], KeyRing.from_environment())


def test_a_copy_learns_of_new_keys(tmp_path: Path, keys: OwnKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = sealed_artifact(tmp_path, keys.new("old"))
    copies = ArtifactCache(CacheSettings(folder=tmp_path / "cache"))
    copy = copies.add(artifact.digest, 1, lambda folder: shutil.copytree(artifact.uri, folder, dirs_exist_ok=True) and None)
    new = keys.new("new")
    rewrap(open_folder(Path(artifact.uri)), [new], KeyRing.from_environment())
    monkeypatch.setattr("deployments.artifacts.fetch.local_path", lambda _: None)  # as of another machine
    assert localize(artifact.uri, artifact.digest, cache=tmp_path / "cache") == copy
    assert [one.key for one in open_folder(copy).seal_keys().wraps] == [new.key_id]
    (copy / KEYS).write_bytes(b"")  # no digest tells that they are damaged
    assert localize(artifact.uri, artifact.digest, cache=tmp_path / "cache") == copy
    assert [one.key for one in open_folder(copy).seal_keys().wraps] == [new.key_id]
    shutil.rmtree(artifact.uri)  # away: what the copy knows is tried
    assert localize(artifact.uri, artifact.digest, cache=tmp_path / "cache") == copy


def test_the_very_bytes_that_were_verified_are_loaded(tmp_path: Path) -> None:
    """Sealed or not: whoever changes a file once it was read changes nothing."""
    one, other = (mlp_artifact(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    folder = Path(one[0])
    files = open_folder(folder, one[1])
    opened, read = files._open, []

    def swapping(name: str) -> object:
        read.append(name)
        stream = opened(name)
        content = stream.read()
        shutil.copy(Path(other[0]) / name, folder / name)
        return io.BytesIO(content)

    files._open = swapping  # type: ignore[assignment]
    answers = load_engine(files).score({INPUT: rows(4, seed=9)})[OUTPUT]
    assert read.count("model.onnx") == 1
    assert not np.allclose(answers, load_engine(Path(other[0])).score({INPUT: rows(4, seed=9)})[OUTPUT])
    with pytest.raises(BadArtifact, match="damaged"):
        load_engine(open_folder(folder, one[1]))


def test_an_opened_version_leaves_its_process_in_no_pickle(tmp_path: Path, keys: OwnKeys) -> None:
    artifact = sealed_artifact(tmp_path, keys.new("a"))
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(open_version(artifact.uri, artifact.digest))


def test_nobody_to_seal_for_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nobody could open it"):
        seal_files({}, tmp_path, "digits", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1, 16383, 16384, 16385, 3 * 16384, (1 << 20) + 5])
def test_a_file_of_any_size_comes_back(count: int) -> None:
    plain, sealed, seen = bytes(range(256)) * (count // 256 + 1), io.BytesIO(), hashlib.sha256()
    plain = plain[:count]
    write_sealed(io.BytesIO(plain), sealed, b"k" * 32, b"as this file")
    content = sealed.getvalue()
    assert plain_bytes(len(content)) == count
    opened = io.BytesIO()
    assert open_sealed(io.BytesIO(content), b"k" * 32, b"as this file", saw=seen.update, give=opened.write)
    assert opened.getvalue() == plain
    for key, context in ((b"K" * 32, b"as this file"), (b"k" * 32, b"as another")):
        assert not open_sealed(io.BytesIO(content), key, context, saw=seen.update, give=opened.write)
    assert not open_sealed(io.BytesIO(content[:-1]), b"k" * 32, b"as this file", saw=lambda _: None, give=opened.write)
    assert seen.digest() == hashlib.sha256(content * 3).digest()
