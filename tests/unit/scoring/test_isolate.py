"""Finding the rows at fault, and telling a broken version from bad rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import Array
from deployments.engines.isolate import GIVE_UP_AFTER, score_isolating
from deployments.engines.port import RowsRefused

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1,)),),
    outputs=(
        TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1,)),
        TensorSpec(name="z", datatype=Datatype.BYTES, shape=(-1, 2)),
    ),
)


class Doubles:
    """Doubles its input, fails on any batch with a negative number, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        x = tensors["x"]
        if (x < 0).any():
            raise EngineFailure("negative")
        return {"y": (x * 2).astype(np.float32), "z": np.full((len(x), 2), b"z", dtype=object)}


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_exactly_the_rows_at_fault_fail(bad: list[bool]) -> None:
    x = np.arange(1, len(bad) + 1, dtype=np.float32)
    x[bad] *= -1
    answer = score_isolating(Doubles(), {"x": x})
    assert sorted(answer.failed) == np.flatnonzero(bad).tolist()
    np.testing.assert_array_equal(answer.outputs["y"], np.where(bad, 0, 2 * x))
    assert answer.outputs["z"][:, 0].tolist() == [b"" if one else b"z" for one in bad]


def test_a_good_batch_is_one_call() -> None:
    engine = Doubles()
    score_isolating(engine, {"x": np.ones(1000, np.float32)})
    assert engine.calls == 1


def test_one_bad_row_costs_two_calls_a_halving() -> None:
    engine = Doubles()
    x = np.ones(1024, np.float32)
    x[700] = -1
    assert list(score_isolating(engine, {"x": x}).failed) == [700]
    assert engine.calls == 1 + 2 * 10


class Reader(Doubles):
    """Refuses rows of 0, and fails as `Doubles` does."""

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        empty = np.flatnonzero(tensors["x"] == 0).tolist()
        if empty:
            raise RowsRefused.of({row: BadInput(f"row {row} of {len(tensors['x'])}") for row in empty})
        return super().score(tensors)


def test_rows_that_the_engine_refuses_are_told_apart_at_once_and_from_those_that_the_model_fails() -> None:
    x = np.array([1, 0, -1, 2, 0], np.float32)
    answer = score_isolating(Reader(), {"x": x})
    assert {row: type(error) for row, error in answer.failed.items()} == {1: BadInput, 2: EngineFailure, 4: BadInput}
    assert answer.failed[4].what == "row 4 of 5"
    assert answer.outputs["y"].tolist() == [2, 0, 0, 4, 0]
    alone = score_isolating(Reader(), {"x": np.zeros(1, np.float32)})
    assert list(alone.failed) == [0]
    assert alone.outputs["y"].tolist() == [0]


@pytest.mark.parametrize("rows", [1024, 65536])
def test_a_broken_version_is_not_asked_row_by_row(rows: int) -> None:
    engine = Doubles()
    answer = score_isolating(engine, {"x": np.full(rows, -1, np.float32)})
    assert len(answer.failed) == rows
    assert engine.calls <= 1 + GIVE_UP_AFTER + 1


def test_one_row_in_twenty_at_fault_is_told_apart() -> None:
    x = np.ones(2048, np.float32)
    bad = np.random.default_rng(0).choice(2048, 102, replace=False)
    x[bad] = -1
    assert sorted(score_isolating(Doubles(), {"x": x}).failed) == sorted(bad.tolist())
