"""Which records a stream explains: a sample that stays the same, and conditions on inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.stream.explain.choosing import holding, sampled, split_conditions
from consumers.stream.explain.section import ExplainWhere, StreamExplain
from consumers.stream.explain.worker import ExplainNotes, explain_spec
from consumers.stream.log.port import Partition, Records
from consumers.stream.log.starts import NotesInProcess
from consumers.stream.spec import Begin, StreamSpec

SPEC: dict[str, Any] = {
    "model": "m",
    "input": {"topic": "in"},
    "output": {"topic": "out"},
    "dead_letters": {"topic": "dead"},
    "explain": {"topic": "why", "sample": 0.25, "class": 1},
}
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="age", datatype=Datatype.FP32, shape=(-1, 1)),
        TensorSpec(name="word", datatype=Datatype.BYTES, shape=(-1,)),
    ),
    outputs=(TensorSpec(name="p", datatype=Datatype.FP32, shape=(-1, 2)),),
)
TENSORS = {
    "age": np.array([[10.0], [20.0], [30.0]], np.float32),
    "word": np.array([b"a", b"b", b"a"], np.object_),
    "p": np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], np.float32),
}


def records(count: int, first: int = 0, **more: Any) -> Records:
    offsets = list(range(first, first + count))
    nothing = [None] * count
    return Records(Partition("in", 0), 0, offsets, nothing, nothing, [[] for _ in offsets], [0] * count, **more)


def where(*conditions: list[Any]) -> tuple[ExplainWhere, ...]:
    return tuple(ExplainWhere.model_validate(one) for one in conditions)


def test_a_sample_is_the_same_whatever_is_taken_together_and_leaves_out_what_cant_be_read() -> None:
    whole = sampled([records(4000)], 0.25)
    assert 850 < len(whole) < 1150
    assert sampled([records(1500), records(2500, 1500)], 0.25) == whole
    assert len(sampled([records(50)], 1.0)) == 50
    assert sampled([records(3, unreadable={1: "torn"})], 1.0) == [0, 2]


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ([["age", ">", 10]], [False, True, True]),
        ([["age", ">=", 20], ["word", "=", "a"]], [False, False, True]),
        ([["word", "!=", "a"]], [False, True, False]),
        ([["argmax(p)", "=", 1]], [False, True, True]),
        ([["max(p)", "<", 0.7]], [False, False, True]),
        ([], [True, True, True]),
    ],
)
def test_conditions_hold_for_rows(conditions: list[list[Any]], rows: list[bool]) -> None:
    assert holding(where(*conditions), TENSORS, 3).tolist() == rows


def test_a_condition_names_what_there_is_and_what_can_be_compared() -> None:
    of_inputs, of_outputs = split_conditions(where(["age", ">", 1], ["max(p)", "<", 1]), SIGNATURE)
    assert ([one.name for one in of_inputs], [one.name for one in of_outputs]) == (["age"], ["max(p)"])
    with pytest.raises(BadInput, match=r"no size.*age, word, p"):
        split_conditions(where(["size", ">", 1]), SIGNATURE)
    with pytest.raises(BadInput, match=r"p has 2 values a row.*max\(p\)"):
        holding(where(["p", ">", 1]), TENSORS, 3)
    for wrong in (["age", "~", 1], ["word", ">", "a"], ["age", ">"]):
        with pytest.raises(ValidationError):
            where(wrong)


def test_a_document_says_what_is_explained_and_the_second_stream_is_the_first_with_a_group_of_its_own() -> None:
    spec = StreamSpec.model_validate(SPEC)
    section = spec.explain
    assert isinstance(section, StreamExplain)
    again = StreamSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    second = explain_spec(spec, section, "s")
    assert (second.group, second.output.topic, second.input.begin, second.explain) == (
        "headrace-s-explain",
        "why",
        Begin.LATEST,
        None,
    )
    for wrong, words in (
        ({"explain": {"topic": "why"}}, "say which records"),
        ({"explain": {"topic": "out", "sample": 1}}, "four topics"),
        ({"explain": {"topic": "why", "sample": 0}}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=words):
            StreamSpec.model_validate(SPEC | wrong)


def test_notes_of_both_streams_lie_side_by_side() -> None:
    whole = NotesInProcess()
    notes = ExplainNotes(whole)
    whole.add({"a": "1"})
    notes.add({"a": "2"})
    assert (notes.load(), whole.load()) == ({"a": "2"}, {"a": "1", "explain/a": "2"})
