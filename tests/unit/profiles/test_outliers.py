"""Outliers by row: how often rows like the profile's are flagged, and that rows unlike them are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import Array
from deployments.profiles.making import make_profile
from deployments.profiles.outliers import FLAG_P, OutlierScore, flagged_of


def spec(name: str, datatype: Datatype, *row: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row))


OUTPUT = spec("y", Datatype.FP32)


def scored_by(inputs: dict[str, Array], *specs: TensorSpec) -> OutlierScore:
    rows = len(next(iter(inputs.values())))
    profile = make_profile(Signature(inputs=specs, outputs=(OUTPUT,)), inputs, {"y": np.zeros(rows, np.float32)})
    assert profile.outliers is not None
    assert profile.summary.held_out == len(profile.outliers.calibration) == min(rows - rows // 2, 2000)
    return OutlierScore(profile.summary.tensors, profile.outliers)


def test_of_rows_like_the_profiles_no_more_are_flagged_than_declared() -> None:
    # Over profiles: of one alone the calibration rows are what they are.
    shares = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        mixed = random.normal(size=(400 + 2000, 12)) @ random.normal(size=(12, 12))
        score = scored_by({"x": mixed[:400].astype(np.float32)}, spec("x", Datatype.FP32, 12))
        found = score.p_values_of({"x": mixed[400:].astype(np.float32)})
        assert found.min() > 0
        assert found.max() <= 1
        shares.append([(found <= at).mean() for at in (FLAG_P, 0.1, 0.5)])
    mean = np.mean(shares, axis=0)
    assert mean == pytest.approx([0.01, 0.1, 0.5], abs=0.02)
    assert mean[0] <= 0.012


def test_digits_that_are_inverted_shifted_or_noise_are_flagged() -> None:
    images = load_digits().images.astype(np.float32) / 16
    score = scored_by({"image": images[:1200]}, spec("image", Datatype.FP32, 8, 8))

    def flagged(rows: Array) -> float:
        return float((score.p_values_of({"image": rows}) <= FLAG_P).mean())

    rest = images[1200:]
    assert flagged(rest) < 0.05
    assert flagged(1 - rest) > 0.99
    assert flagged(np.random.default_rng(0).random(rest.shape).astype(np.float32)) > 0.99
    assert flagged(np.roll(rest, 3, axis=2)) > 0.5


def test_what_only_breaks_a_correlation_is_flagged() -> None:
    random = np.random.default_rng(1)
    common = random.normal(size=(2000, 1))
    rows = (common + 0.05 * random.normal(size=(2000, 8))).astype(np.float64)
    score = scored_by({"x": rows}, spec("x", Datatype.FP64, 8))
    torn = rows[:100].copy()
    torn[:, :4] *= -1
    torn = torn[np.abs(common[:100, 0]) > 1]
    assert (score.p_values_of({"x": torn}) <= FLAG_P).mean() > 0.95
    assert (score.p_values_of({"x": rows}) <= FLAG_P).mean() < 0.03


def test_odd_features_break_nothing() -> None:
    random = np.random.default_rng(2)
    rows = 500
    x = random.normal(size=(rows, 4)).astype(np.float32)
    x[:, 1], x[:, 2] = 7, np.nan
    x[::9, 3] = np.nan
    x[::50, 0] = np.inf
    word = np.array([b"a", b"b"], np.object_)[random.integers(0, 2, rows)]
    specs = spec("x", Datatype.FP32, 4), spec("word", Datatype.BYTES), spec("k", Datatype.INT64)
    inputs: dict[str, Array] = {"x": x, "word": word, "k": random.integers(0, 3, rows)}
    score = scored_by(inputs, *specs)
    assert (score.p_values_of(inputs) <= FLAG_P).mean() < 0.03
    one = {name: value[:1].copy() for name, value in inputs.items()}
    whole = score.p_values_of(inputs)
    assert score.p_values_of(one)[0] == whole[0], "one row or many: the same"
    odd = {**one, "x": np.array([[1e38, 7.1, 3, 1]], np.float32), "word": np.array([b"\xff"], np.object_), "k": np.array([99])}
    assert score.p_values_of(odd)[0] <= FLAG_P
    assert np.isnan(score.p_values_of({**one, "x": np.zeros((1, 5), np.float32)})).all()
    assert score.p_values_of({name: value[:0] for name, value in inputs.items()}).shape == (0,)


def test_few_rows_make_p_values_that_say_little_and_too_few_none() -> None:
    x = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)
    score = scored_by({"x": x}, spec("x", Datatype.FP32, 3))
    assert score.p_values_of({"x": np.full((1, 3), 1e6, np.float32)})[0] == pytest.approx(1 / 26)
    assert flagged_of(25) == 0
    assert flagged_of(999) == 9
    none = make_profile(
        Signature(inputs=(spec("x", Datatype.FP32, 3),), outputs=(OUTPUT,)), {"x": x[:19]}, {"y": np.zeros(19, np.float32)}
    )
    assert none.outliers is None
    assert none.summary.held_out == 0


def test_wide_rows_take_little_time_and_memory() -> None:
    random = np.random.default_rng(4)
    wide = random.normal(size=(300, 4096)).astype(np.float32)
    score = scored_by({"x": wide}, spec("x", Datatype.FP32, 4096))
    assert (score.p_values_of({"x": wide + 3}) <= 1 / 151).all()
