"""Which rows a build keeps to explain others against."""

from __future__ import annotations

import numpy as np

from deployments.builder.explaining import background_places


def test_rows_are_many_and_different_but_not_too_many_bytes() -> None:
    scores = {"p": np.random.default_rng(0).random((500, 3)).astype(np.float32)}
    found = background_places(scores, {"x": np.zeros((500, 4), np.float32)}, classes=True)
    assert len(set(found.tolist())) == 64
    large = {"x": np.zeros((100, 3, 64, 64), np.float32)}  # 49 kB a row
    assert len(background_places({"p": np.zeros((100, 3), np.float32)}, large, classes=True)) == 10
    text = {"x": np.array([b"word " * 20_000] * 30, dtype=np.object_)}  # 100 kB a row
    assert len(background_places({"p": np.zeros((30, 3), np.float32)}, text, classes=False)) == 5


def test_a_row_of_every_class_is_among_them() -> None:
    scores = np.zeros((2000, 3), np.float32)
    scores[:, 0] = 1
    scores[1234] = [0, 1, 0]
    scores[777] = [0, 0, 1]
    found = background_places({"p": scores}, {"x": np.zeros((2000, 2))}, classes=True).tolist()
    assert {777, 1234} < set(found)
    assert len(found) == 64
    few = background_places({"p": scores[:3]}, {"x": np.zeros((3, 2))}, classes=True)
    assert sorted(few.tolist()) == [0, 1, 2]
