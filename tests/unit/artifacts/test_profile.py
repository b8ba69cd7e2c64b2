"""A profile among a version's files."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadArtifact, Unreachable
from cluster.routing.routes import Target
from deployments.artifacts.manifest import PROFILE, PROFILE_ARRAYS, verify
from deployments.artifacts.package import Artifact, write_artifact
from deployments.artifacts.profile import fetch_profile, read_profile
from deployments.artifacts.samples import read_samples
from deployments.drift.profile_book import ProfileBook
from deployments.drift.version_counting import VersionCounting
from deployments.engines.load import load_engine
from deployments.profiles.making import make_profile
from deployments.profiles.numbers import ARRAYS
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows

OLD = Path(__file__).parents[2] / "fixtures" / "artifact-ca71fb8"


@pytest.fixture
def written(tmp_path: Path) -> Artifact:
    """A real network's artifact, with a profile of its answers to 100 rows."""
    plain = Path(mlp_artifact(tmp_path / "plain")[0])
    inputs = {INPUT: rows(100)}
    inputs[INPUT][:, 5] = np.nan
    answers = load_engine(plain).score({INPUT: rows(100)})
    return write_artifact(
        tmp_path / "root",
        model="digits",
        engine="onnx",
        signature=SIGNATURE,
        files={"model.onnx": plain / "model.onnx"},
        samples=read_samples(plain),
        report={},
        profile=make_profile(SIGNATURE, inputs, answers, classes=answers[OUTPUT].argmax(axis=1)),
        source={},
    )


def test_it_is_read_as_it_was_written_and_has_its_digests(written: Artifact) -> None:
    folder = Path(written.uri)
    assert {PROFILE, PROFILE_ARRAYS} < {entry.path for entry in verify(folder, written.digest).files}
    found = read_profile(folder)
    assert found is not None
    assert found.summary.rows == 100
    assert found.summary.few
    assert found.summary.classes is not None
    assert sum(found.summary.classes.counts) == 100
    image = rows(100)
    image[:, 5] = np.nan
    expected = make_profile(SIGNATURE, {INPUT: image}, {OUTPUT: load_engine(folder).score({INPUT: rows(100)})[OUTPUT]})
    for key, columns in expected.numbers.items():
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found.numbers[key], name), getattr(columns, name))
    assert (folder / PROFILE_ARRAYS).stat().st_size < 300_000, "784 features of 100 rows must not weigh more than the network"


def test_a_damaged_one_is_found_by_its_digest(written: Artifact) -> None:
    with (Path(written.uri) / PROFILE_ARRAYS).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadArtifact, match=r"profile\.npz is damaged"):
        verify(Path(written.uri))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (PROFILE, b"{}", "rows"),
        (PROFILE, b'{"format": 2, "rows": 1, "tensors": []}', "format 2 is unknown"),
        (PROFILE_ARRAYS, b"no archive", "bad profile"),
    ],
)
def test_what_makes_no_sense_is_said(written: Artifact, name: str, content: bytes, says: str) -> None:
    (Path(written.uri) / name).write_bytes(content)
    with pytest.raises(BadArtifact, match=says) as caught:
        read_profile(Path(written.uri))
    assert name in caught.value.where


def test_arrays_that_contradict_the_summary_are_refused(written: Artifact) -> None:
    file = Path(written.uri) / PROFILE
    file.write_text(file.read_text().replace('"profiled": 784', '"profiled": 783'))
    with pytest.raises(BadArtifact, match=r"input\.image has not the features"):
        read_profile(Path(written.uri))


def test_a_later_release_may_say_more(written: Artifact) -> None:
    file = Path(written.uri) / PROFILE
    file.write_text(file.read_text().replace('"format": 1', '"format": 1, "projection": [1]'))
    assert read_profile(Path(written.uri)) is not None


def _without(archive: Path, prefix: str) -> None:
    with np.load(archive) as found:
        kept = {name: found[name] for name in found.files if not name.startswith(prefix)}
    np.savez_compressed(archive, **kept)


def test_one_from_before_outliers_were_told_is_counted_beside_and_tells_none(written: Artifact) -> None:
    folder = Path(written.uri)
    told = json.loads((folder / PROFILE).read_text())
    assert told.pop("held_out") == 50
    (folder / PROFILE).write_text(json.dumps(told))
    _without(folder / PROFILE_ARRAYS, "outliers.")
    found = read_profile(folder)
    assert found is not None
    assert found.outliers is None
    counting = VersionCounting("digits", 1, found)
    assert counting.outliers is None
    assert len(counting.reference.features) == 794


def test_calibration_that_does_not_fit_is_refused(written: Artifact) -> None:
    folder = Path(written.uri)
    _without(folder / PROFILE_ARRAYS, "outliers.rarity")
    with pytest.raises(BadArtifact, match=r"bad profile: .*outliers\.rarity"):
        read_profile(folder)
    with np.load(folder / PROFILE_ARRAYS) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(folder / PROFILE_ARRAYS, **arrays, **{"outliers.rarity": np.zeros((784, 3))})
    with pytest.raises(BadArtifact, match="what tells outliers does not fit its features"):
        read_profile(folder)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_it_is_fetched_alone_and_only_as_it_was_registered(written: Artifact, scheme: str) -> None:
    uri, folder = f"{scheme}{written.uri}", Path(written.uri)
    (folder / "model.onnx").unlink()
    found = fetch_profile(uri, written.digest)
    assert found is not None
    assert found.summary.rows == 100
    with pytest.raises(BadArtifact, match="the manifest is not the registered one"):
        fetch_profile(uri, "0" * 64)
    with (folder / PROFILE_ARRAYS).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadArtifact, match=r"profile\.npz is damaged"):
        fetch_profile(uri, written.digest)
    (folder / PROFILE).unlink()
    with pytest.raises(BadArtifact, match=r"profile\.json is missing"):
        fetch_profile(uri, written.digest)


def test_an_artifact_without_one_has_none_to_fetch(tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path)
    assert fetch_profile(uri, digest) is None
    assert ProfileBook().load("digits", Target(1, "a", uri, digest, "onnx", SIGNATURE)).counting.watched is False


def test_a_place_that_is_away_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def away(uri: str, _: str) -> None:
        asked.append(uri)
        raise Unreachable("no network", where=uri)

    book, target = ProfileBook(away), Target(1, "digits--v1", "s3://far", "0" * 64, "onnx", SIGNATURE)
    found = book.load("digits", target)
    assert not found.counting.watched
    assert 0 < found.until_s - time.monotonic() < 120
    assert book.known("digits", target) is None, "nobody is told that it has no profile"
    assert book.load("digits", target) is found
    assert asked == ["s3://far"]
    assert caplog.text.count("its profile is looked for again") == 1


def test_serving_never_reads_it(written: Artifact, tmp_path: Path) -> None:
    """The bytes are checked with all others; what they say is nothing to an engine: here it is rubbish with a right digest."""
    again = write_artifact(
        tmp_path / "rubbish",
        model="digits",
        engine="onnx",
        signature=SIGNATURE,
        files={
            "model.onnx": Path(written.uri) / "model.onnx",
            PROFILE: Path(written.uri) / "samples.npz",
            PROFILE_ARRAYS: Path(written.uri) / "report.json",
        },
        samples=read_samples(Path(written.uri)),
        report={},
        source={},
    )
    answers = load_engine(Path(again.uri)).score({INPUT: rows(3)})
    np.testing.assert_array_equal(answers[OUTPUT], load_engine(Path(written.uri)).score({INPUT: rows(3)})[OUTPUT])


def test_an_artifact_from_before_there_were_profiles_has_none_and_serves(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD, tmp_path / "old")
    verify(folder)
    assert read_profile(folder) is None
    answer = load_engine(folder).score({"x": np.array([3.0], np.float32)})
    assert answer["y"].tolist() == [9.0]
