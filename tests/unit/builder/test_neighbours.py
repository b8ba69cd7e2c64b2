"""Rows that depend on their neighbours are found out, by which pair of ways and how far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from cluster.errors import BadInput, EngineFailure
from deployments.builder.evaluation.gate import broken
from deployments.builder.evaluation.neighbours import extreme_rows, neighbours
from deployments.builder.evaluation.quality import Quality
from deployments.builder.report import Variant
from deployments.builder.sources.answers import blamed
from deployments.builder.spec import Gate
from deployments.engines.datatypes import Array

ROWS = {"x": np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.5], [2.0, 0.25], [0.1, 0.2]], np.float32)}


def honest(rows: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": rows["x"] * np.float32(2)}


def summed_over_the_batch(rows: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": np.cumsum(rows["x"], axis=0)}


def scaled_by_the_batch(rows: Mapping[str, Array]) -> dict[str, Array]:
    """As int8 with one scale does: a neighbour 1000 times as large leaves nothing of the others."""
    scale = np.abs(rows["x"]).max() / 127
    return {"y": (np.round(rows["x"] / scale) * scale).astype(np.float32)}


def test_independent_rows_are_left_alone() -> None:
    found = neighbours(honest, ROWS, "classification")
    assert (found.rows, found.changed, found.largest, found.row, found.twice) == (5, 0.0, 0.0, None, 0.0)
    assert found.steady


def test_a_sum_over_the_batch_is_named() -> None:
    found = neighbours(summed_over_the_batch, ROWS, "classification")
    assert found.changed > 0
    assert found.row is not None
    assert found.pair in ("alone and together", "beside extreme rows and beside plain ones")


def test_one_scale_for_the_whole_batch_loses_rows_beside_an_outlier() -> None:
    found = neighbours(scaled_by_the_batch, ROWS, "classification")
    assert found.pair == "beside extreme rows and beside plain ones"
    assert found.changed == pytest.approx(3 / 5)  # the rows whose largest place is not the first: all of 0 has class 0
    assert found.largest == pytest.approx(3.0)
    assert neighbours(scaled_by_the_batch, ROWS, "regression").changed == 1.0


def test_an_answer_that_changes_by_itself_is_told_apart() -> None:
    random = np.random.default_rng(0)
    found = neighbours(lambda rows: {"y": rows["x"] + random.random(rows["x"].shape)}, ROWS, "classification")
    assert not found.steady
    assert found.twice > 0.01


def test_rounding_between_two_scores_as_good_as_equal_changes_no_class() -> None:
    def tied(rows: Mapping[str, Array]) -> dict[str, Array]:
        answers = np.full((len(rows["x"]), 2), 0.5)
        answers[:, len(rows["x"]) // 4 % 2] += 1e-9
        return {"y": answers}

    found = neighbours(tied, ROWS, "classification")
    assert found.changed == 0
    assert found.largest == pytest.approx(1e-9)


def test_a_model_that_fails_beside_extreme_rows_is_still_compared() -> None:
    def narrow(rows: Mapping[str, Array]) -> dict[str, Array]:
        if np.abs(rows["x"]).max() > 100:
            raise EngineFailure("too large")
        return honest(rows)

    found = neighbours(narrow, ROWS, "classification")
    assert (found.extreme, found.changed) == (False, 0.0)


def test_extreme_rows_stay_within_what_whole_numbers_and_text_may_be() -> None:
    text = np.array([[b"a", b"bbb"], [b"cc", b""]], object)
    found = extreme_rows({"x": ROWS["x"], "place": np.array([[3], [7]]), "word": text, "half": np.array([[9.0]], np.float16)})
    assert found["x"].tolist() == [[2000.0, 3000.0], [-2000.0, -3000.0]]
    assert found["place"].tolist() == [[7], [3]]
    assert found["word"].tolist() == [[b"cc", b"bbb"], [b"a", b""]]
    assert found["half"].dtype == np.float16
    assert np.isfinite(found["half"]).all()


def test_the_gate_says_which_pair_differs() -> None:
    quality = Quality(rows=5, agreement=1.0, max_difference=0.0)
    found = neighbours(scaled_by_the_batch, ROWS, "classification")
    variant = Variant(name="int8", quality=quality, neighbours=found)
    (sentence,) = broken(Gate(), variant, variant)
    assert "its rows are not independent" in sentence
    assert "between beside extreme rows and beside plain ones" in sentence
    assert broken(Gate(max_neighbour_changes=None), variant, variant) == ()
    random = found.model_copy(update={"twice": 0.1, "changed": 0.0})
    (sentence,) = broken(Gate(), variant.model_copy(update={"neighbours": random}), variant)
    assert "is dropout on?" in sentence


def test_an_export_that_fails_since_rows_depend_on_each_other_says_so() -> None:
    told = {"neighbours": neighbours(scaled_by_the_batch, ROWS, "classification").model_dump(mode="json")}
    with (
        pytest.raises(BadInput, match=r"its rows are not independent.*and so it can't be exported") as caught,
        blamed(told, "net:Net"),
    ):
        raise BadInput("can't be exported")
    assert "batch_first=True" in caught.value.remedy
    independent = {"neighbours": neighbours(honest, ROWS, "classification").model_dump(mode="json")}
    with pytest.raises(BadInput, match=r"^can't be exported$"), blamed(independent, "net:Net"):
        raise BadInput("can't be exported")
