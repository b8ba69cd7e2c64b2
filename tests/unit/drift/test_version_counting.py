"""Rows beside their version's profile: the same rows give the same counts, and odd features break nothing."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.drift.counts import DriftReport, check_report
from cluster.drift.kinds import KINDS, RateKind
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.drift.version_counting import VersionCounting, VersionCounts
from deployments.engines.datatypes import Array
from deployments.profiles.making import make_profile

ROWS = 2000
RANDOM = np.random.default_rng(5)


def spec(name: str, datatype: Datatype, *row: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row))


SIGNATURE = Signature(
    inputs=(spec("x", Datatype.FP32, 2, 3), spec("word", Datatype.BYTES)),
    outputs=(spec("y", Datatype.FP32), spec("k", Datatype.INT64)),
)


def traffic(rows: int, seed: int = 0) -> tuple[dict[str, Array], dict[str, Array]]:
    """Of x: normal, constant, all missing, some missing, two values, some infinite."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2, 3)).astype(np.float32)
    x[:, 0, 1], x[:, 0, 2] = 3.5, np.nan
    x[random.random(rows) < 0.3, 1, 0] = np.nan
    x[:, 1, 1] = random.random(rows) < 0.25
    x[random.random(rows) < 0.01, 1, 2] = np.inf
    word = np.array([b"red", b"green", b"blue"], np.object_)[random.integers(0, 3, rows)]
    return {"x": x, "word": word}, {"y": x[:, 0, 0].copy(), "k": random.integers(0, 2, rows)}


def counting(rows: int = ROWS) -> VersionCounting:
    inputs, outputs = traffic(rows)
    return VersionCounting("m", 1, make_profile(SIGNATURE, inputs, outputs))


def counted(version: VersionCounting, inputs: dict[str, Array], outputs: dict[str, Array]) -> VersionCounts:
    every = np.arange(len(next(iter(inputs.values()))))
    found = version.count(version.copied(inputs, outputs, every, every, every))
    check_report(DriftReport("s", 1, "m", 1, version.digest, found.rows, found.hits, found.histogram), version.reference)
    return found


def shares(version: VersionCounting, found: VersionCounts, name: str, kind: RateKind) -> list[float]:
    reference = version.reference
    names = [feature.name for feature in reference.features]
    mask = (reference.feature == names.index(name)) & (reference.kind == KINDS.index(kind))
    return (found.hits[mask] / found.rows[names.index(name)]).tolist()


def test_the_profiles_own_rows_are_counted_as_the_profile_has_them() -> None:
    version = counting()
    found = counted(version, *traffic(ROWS))
    reference = version.reference
    # All but the last, which is of whole rows: there the profile tells of those alone that were held out.
    np.testing.assert_array_equal(found.hits[:-1], reference.hits[:-1])
    np.testing.assert_array_equal(found.histogram[:-1], reference.histogram[:-1])
    assert set(found.rows.tolist()) == {ROWS} == {feature.rows for feature in reference.features[:-1]}
    assert (reference.features[-1].name, reference.features[-1].rows, reference.hits[-1]) == ("whole rows", ROWS // 2, 9)
    assert reference.histogram[-1].sum() == ROWS // 2
    assert 0 < version.flagged(found) < 0.02 * ROWS
    assert [feature.name for feature in reference.features][:2] == ["y", "k"]
    assert [feature.answer for feature in reference.features] == [True] * 2 + [False] * 8
    assert version.digest == counting().digest
    assert version.most_rows == 256


def test_cuts_are_at_deciles_and_only_where_they_part_rows() -> None:
    version = counting()
    found = counted(version, *traffic(ROWS))
    assert shares(version, found, "x[0,0]", RateKind.INPUT) == pytest.approx(np.arange(1, 10) / 10, abs=0.02)
    assert shares(version, found, "y", RateKind.OUTPUT) == pytest.approx(np.arange(1, 10) / 10, abs=0.02)
    assert shares(version, found, "x[0,1]", RateKind.INPUT) == [], "a constant has no cut: what differs is out of range"
    assert shares(version, found, "x[0,2]", RateKind.INPUT) == []
    assert shares(version, found, "x[0,2]", RateKind.MISSING) == [1.0]
    assert len(shares(version, found, "x[1,1]", RateKind.INPUT)) == 1
    assert len(shares(version, found, "word", RateKind.INPUT)) == 3
    assert shares(version, found, "k", RateKind.MISSING) == [], "whole numbers are never missing"


def test_what_has_changed_shows_in_its_own_rates() -> None:
    version = counting()
    inputs, outputs = traffic(ROWS, seed=1)
    inputs["x"] = inputs["x"].copy()
    inputs["x"][:, 0, 0] += 1
    inputs["x"][:, 0, 1] = 3.6
    inputs["x"][:, 0, 2] = 7
    inputs["x"][:, 1, 0] = np.nan
    inputs["word"][:500] = b"\xff no text"
    inputs["word"][500:600] = b"black"
    found = counted(version, inputs, outputs)
    assert max(shares(version, found, "x[0,0]", RateKind.INPUT)) < 0.7
    assert shares(version, found, "x[0,1]", RateKind.OUT_OF_RANGE) == [1.0]
    assert shares(version, found, "x[0,2]", RateKind.OUT_OF_RANGE) == [1.0]
    assert shares(version, found, "x[0,2]", RateKind.MISSING) == [0.0]
    assert shares(version, found, "x[1,0]", RateKind.MISSING) == [1.0]
    assert shares(version, found, "word", RateKind.UNSEEN) == [0.3]
    assert shares(version, found, "y", RateKind.OUTPUT) == pytest.approx(np.arange(1, 10) / 10, abs=0.06)
    assert shares(version, found, "whole rows", RateKind.OUTLIER) == [1.0]


def test_rows_of_another_shape_are_not_counted_of_that_tensor() -> None:
    version = counting()
    inputs, outputs = traffic(40, seed=2)
    inputs["x"] = np.zeros((40, 5, 3), np.float32)
    found = counted(version, inputs, outputs)
    names = [feature.name for feature in version.reference.features]
    assert {name: int(rows) for name, rows in zip(names, found.rows, strict=True)} == {
        "y": 40, "k": 40, "word": 40, "whole rows": 0, **{f"x[{i},{j}]": 0 for i in range(2) for j in range(3)}
    }  # fmt: skip


def test_a_profile_of_few_rows_and_a_million_categories_are_counted() -> None:
    version = counting(50)
    inputs, outputs = traffic(300, seed=3)
    inputs["word"] = np.array([f"{i}".encode() for i in range(300)], np.object_)
    assert shares(version, counted(version, inputs, outputs), "word", RateKind.UNSEEN) == [1.0]
    wide = Signature(inputs=(spec("id", Datatype.INT64),), outputs=(spec("y", Datatype.INT32),))
    ids = np.arange(1_000_000)
    many = VersionCounting("m", 1, make_profile(wide, {"id": ids}, {"y": (ids % 7).astype(np.int32)}))
    found = counted(many, {"id": ids[:1000]}, {"y": np.full(1000, 3, np.int32)})
    assert shares(many, found, "id", RateKind.INPUT)[0] == 1.0
    assert shares(many, found, "y", RateKind.OUTPUT).count(1.0) == 1


def test_without_a_profile_nothing_is_watched() -> None:
    version = VersionCounting("m", 1, None)
    assert not version.watched
    nothing = version.nothing()
    check_report(DriftReport("s", 1, "m", 1, version.digest, nothing.rows, nothing.hits, nothing.histogram), version.reference)
