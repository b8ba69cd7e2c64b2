"""Rows put back in order, versions compared, evidence kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import EngineFailure
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.control.evidence_log import EvidenceLog
from deployments.scoring.call_check import nan_rows
from deployments.scoring.rows import KNOWN_ROWS_AT_MOST, Answer, Part, all_rows, assembled, can_move, joined, move_to_end
from deployments.scoring.shadow.compare import disagreements

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1,)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, -1)),),
)
KEY = EvidenceKey("digits", "r1.1", 2)


def answer(values: np.ndarray, failed: tuple[int, ...] = ()) -> Answer:
    return Answer({"y": values.astype(np.float32).reshape(len(values), 1)}, {row: EngineFailure(f"row {row}") for row in failed})


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_rows_come_back_in_order(owners: list[int]) -> None:
    """Owner 0 is nobody: such rows are zeros."""
    owner = np.array(owners)
    values = np.arange(1, len(owners) + 1)
    parts = [Part(v, np.flatnonzero(owner == v), answer(values[owner == v])) for v in (1, 2, 3) if (owner == v).any()]
    outputs, errors = assembled(SIGNATURE, parts, len(owners))
    if parts:
        assert outputs["y"][:, 0].tolist() == np.where(owner > 0, values, 0).tolist()
    assert errors == {}


def test_errors_keep_their_rows() -> None:
    parts = [Part(1, np.array([0, 2]), answer(np.array([5, 0]), failed=(1,))), Part(2, np.array([1]), answer(np.array([7])))]
    outputs, errors = assembled(SIGNATURE, parts, 3)
    assert outputs["y"][:, 0].tolist() == [5, 7, 0]
    assert {row: error.what for row, error in errors.items()} == {2: "row 1"}


def test_answers_that_do_not_fit_together_are_failures() -> None:
    wide = Answer({"y": np.ones((1, 4), np.float32)})
    outputs, errors = assembled(SIGNATURE, [Part(1, np.array([0]), answer(np.array([5]))), Part(2, np.array([1]), wide)], 2)
    assert outputs["y"].tolist() == [[5], [0]]
    assert isinstance(errors[1], EngineFailure)


@given(st.lists(st.booleans(), max_size=60))
def test_chosen_rows_move_to_the_end_and_few_others_move(owners: list[bool]) -> None:
    chosen = np.array(owners, dtype=np.bool_)
    given_x = np.random.default_rng(0).random((len(owners), 3), dtype=np.float32)
    given_word = np.array([b"%d" % row for row in range(len(owners))], np.object_)
    x, word = given_x.copy(), given_word.copy()
    order = move_to_end({"x": x, "word": word}, chosen)
    assert sorted(order.tolist()) == list(range(len(owners)))
    np.testing.assert_array_equal(x, given_x[order])
    assert word.tolist() == given_word[order].tolist()
    assert chosen[order].tolist() == sorted(owners)
    assert np.count_nonzero(order != np.arange(len(owners))) <= 2 * min(sum(owners), len(owners) - sum(owners))


def test_only_large_arrays_of_ones_own_may_be_moved() -> None:
    large = np.zeros((1000, 100), np.float32)
    assert can_move({"x": large, "y": large[:, :1]})
    assert not can_move({"x": large[:10]})
    large.setflags(write=False)
    assert not can_move({"x": large, "y": np.zeros((1000, 100))})


def test_pieces_are_joined() -> None:
    whole = joined(SIGNATURE, [answer(np.array([1, 2])), answer(np.array([0]), failed=(0,)), answer(np.array([4]))], [2, 1, 1])
    assert whole.outputs["y"][:, 0].tolist() == [1, 2, 0, 4]
    assert list(whole.failed) == [2]


@pytest.mark.parametrize(
    ("other", "tolerance", "differ"),
    [
        ([[0.1, 0.9], [0.6, 0.4]], None, [False, False]),
        ([[0.9, 0.1], [0.6, 0.4]], None, [True, False]),
        ([[0.1, 0.8], [0.6, 0.4]], 0.05, [True, False]),
        ([[0.1, 0.88], [0.6, 0.4]], 0.05, [False, False]),
        ([[np.nan, 0.9], [0.6, 0.4]], 0.05, [True, False]),
    ],
)
def test_versions_are_compared(other: list[list[float]], tolerance: float | None, differ: list[bool]) -> None:
    one = {"y": np.array([[0.1, 0.9], [0.6, 0.4]], np.float32)}
    assert disagreements(one, {"y": np.array(other, np.float32)}, tolerance).tolist() == differ


def test_each_output_may_have_a_tolerance_of_its_own() -> None:
    """Those without one are compared by their argmax."""
    one = {"y": np.array([[0.1, 0.9]] * 4, np.float32), "width": np.array([[10.0]] * 4, np.float32)}
    other = {
        "y": np.array([[0.2, 0.8], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], np.float32),
        "width": np.array([[10.0], [10.0], [12.5], [11.5]], np.float32),
    }
    assert disagreements(one, other, {"width": 2.0}).tolist() == [False, True, True, False]
    assert disagreements(one, other, {"width": 2.0, "y": 0.05}).tolist() == [True, True, True, False]


def test_a_candidates_extra_outputs_stay_inside() -> None:
    extra = Answer({"y": np.array([[1.0], [2.0]], np.float32), "why": np.array([[0.5], [0.5]], np.float32)})
    for parts in ([Part(2, np.arange(2), extra)], [Part(2, np.array([1, 0]), extra)]):
        outputs, _ = assembled(SIGNATURE, parts, 2)
        assert list(outputs) == ["y"]


def test_labels_are_compared_as_they_are() -> None:
    one, other = np.array([b"cat", b"dog"], object), np.array([b"cat", b"cow"], object)
    assert disagreements({"y": one}, {"y": other}, None).tolist() == [False, True]
    assert disagreements({"y": one}, {}, None).tolist() == [True, True]


def test_nan_is_found_and_infinity_is_not_nan() -> None:
    x = np.zeros((3, 2), np.float32)
    assert nan_rows({"x": x}, 3) is None
    x[0] = [np.inf, -np.inf]
    assert nan_rows({"x": x}, 3) is None
    x[2, 1] = np.nan
    found = nan_rows({"x": x, "label": np.zeros(3, np.int64)}, 3)
    assert found is not None
    assert found.tolist() == [False, False, True]


def test_evidence_waits_unchanged_until_it_is_delivered() -> None:
    log = EvidenceLog("me")
    assert log.next_batch() is None
    log.add(KEY, Counts(rows=1))
    first = log.next_batch()
    log.add(KEY, Counts(rows=2))
    log.add(KEY, Counts(rows=3))
    assert first is not None
    assert log.next_batch() is first
    log.delivered(first)
    second = log.next_batch()
    assert second is not None
    assert (second.sequence, second.counts) == (2, {KEY: Counts(rows=5)})
    log.delivered(first)  # told twice: nothing is lost
    assert log.next_batch() is second


def test_evidence_of_a_step_that_is_over_is_forgotten() -> None:
    log = EvidenceLog("me")
    log.add(KEY, Counts(rows=1))
    log.keep_only({("digits", "r1.2")})
    assert log.next_batch() is None


def test_indexes_of_large_calls_are_not_kept() -> None:
    large = KNOWN_ROWS_AT_MOST + 1
    assert all_rows(KNOWN_ROWS_AT_MOST) is all_rows(KNOWN_ROWS_AT_MOST)
    assert all_rows(large) is not all_rows(large)
    for rows in (all_rows(large), all_rows(3)):
        assert rows.tolist() == list(range(len(rows)))
        assert not rows.flags.writeable
