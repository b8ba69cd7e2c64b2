"""Which features are numbers, which categories, and which are not looked at."""

from __future__ import annotations

import numpy as np

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.profiles.form import FeatureKind, TensorProfile
from deployments.profiles.making import make_profile

ROWS = 40


def spec(name: str, datatype: Datatype, *row: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row))


def profiled(datatype: Datatype, value: np.ndarray) -> TensorProfile:
    """As an input and as an output."""
    signature = Signature(inputs=(spec("x", datatype, *value.shape[1:]),), outputs=(spec("y", datatype, *value.shape[1:]),))
    profile = make_profile(signature, {"x": value}, {"y": value})
    first, second = profile.summary.tensors
    assert (first.kind, first.categories, first.profiled) == (second.kind, second.categories, second.profiled)
    assert set(profile.numbers) == ({"input.x", "output.y"} if first.kind is FeatureKind.NUMBERS else set())
    return first


def test_few_whole_numbers_are_categories_and_many_are_amounts() -> None:
    few = profiled(Datatype.INT64, np.arange(ROWS)[:, None] % 3)
    assert few.kind is FeatureKind.CATEGORIES
    assert few.categories[0].names == ("0", "1", "2")
    assert profiled(Datatype.INT64, np.arange(ROWS)[:, None]).kind is FeatureKind.NUMBERS
    assert profiled(Datatype.UINT8, np.zeros((ROWS, 784), np.uint8)).kind is FeatureKind.NUMBERS
    assert profiled(Datatype.BF16, np.zeros((ROWS, 1), np.uint16)).kind is FeatureKind.NUMBERS
    assert profiled(Datatype.BOOL, np.ones(ROWS, np.bool_)).categories[0].counts == (ROWS,)


def test_a_text_that_few_rows_share_has_no_name() -> None:
    words = np.empty((ROWS, 1), np.object_)
    words[:, 0] = [b"common"] * 35 + [f"a sentence of person {row}".encode() for row in range(5)]
    found = profiled(Datatype.BYTES, words).categories[0]
    assert (found.names, found.counts, found.other, found.distinct) == (("common",), (35,), 5, 6)


def test_the_first_features_are_looked_at_of_all_inputs_together() -> None:
    wide = np.zeros((2, 64, 65), np.float32)
    signature = Signature(
        inputs=(spec("a", Datatype.FP32, 64), spec("b", Datatype.FP32, 64, 65), spec("c", Datatype.FP32)),
        outputs=(spec("y", Datatype.FP32),),
    )
    one = np.zeros(2, np.float32)
    found = make_profile(signature, {"a": wide[:, :, 0], "b": wide, "c": one}, {"y": one}).summary.tensors
    assert [(tensor.name, tensor.features, tensor.profiled) for tensor in found] == [
        ("a", 64, 64),
        ("b", 4160, 4032),
        ("c", 1, 0),
        ("y", 1, 1),
    ]
    assert found[1].row_shape == (64, 65)


def test_what_the_document_leaves_out_is_not_in_it() -> None:
    signature = Signature(
        inputs=(spec("age", Datatype.FP32), spec("city", Datatype.BYTES)), outputs=(spec("y", Datatype.FP32, 2),)
    )
    rows = {"age": np.ones(ROWS, np.float32), "city": np.array([b"Ulm"] * ROWS, np.object_)}
    answers = {"y": np.ones((ROWS, 2), np.float32)}
    found = make_profile(signature, rows, answers, classes=np.arange(ROWS) % 2, leave_out=("city",)).summary
    assert [tensor.name for tensor in found.tensors] == ["age", "y"]
    assert found.left_out == ("city",)
    assert "Ulm" not in found.model_dump_json()
    assert found.classes is not None
    assert found.classes.counts == (20, 20)
