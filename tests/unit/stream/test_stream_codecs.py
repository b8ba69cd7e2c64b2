"""Decoding and encoding, by format."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.stream.codecs.formats import make_decoder, make_encoder
from consumers.stream.spec import Format, StreamInput, StreamOutput
from deployments.scoring.rows import can_move

IMAGE = TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, 2, 2))
AGE = TensorSpec(name="age", datatype=Datatype.INT8, shape=(-1,))
NAME = TensorSpec(name="name", datatype=Datatype.BYTES, shape=(-1,))
FLAG = TensorSpec(name="flag", datatype=Datatype.BOOL, shape=(-1, 2))


def signature(*specs: TensorSpec) -> Signature:
    return Signature(inputs=specs, outputs=specs)


def test_json_fills_every_kind_of_input() -> None:
    decoder = make_decoder(signature(IMAGE, AGE, NAME, FLAG), StreamInput(topic="t", fields={"age": "/who/age"}))
    values = [
        b'{"image": [[1, 2.5], [3, 4]], "who": {"age": 7}, "name": "ann", "flag": [true, false]}',
        b'{"image": [1, 2, 3, 4], "who": {"age": -3}, "name": "bob", "flag": [false, false]}',
    ]
    decoded = decoder.decode(values)
    assert decoded.errors == {}
    assert list(decoded.rows) == [0, 1]
    assert decoded.tensors["image"].dtype == np.float32
    np.testing.assert_array_equal(decoded.tensors["image"], [[[1, 2.5], [3, 4]], [[1, 2], [3, 4]]])
    np.testing.assert_array_equal(decoded.tensors["age"], np.array([7, -3], dtype=np.int8))
    assert decoded.tensors["name"].tolist() == [b"ann", b"bob"]
    np.testing.assert_array_equal(decoded.tensors["flag"], [[True, False], [False, False]])


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"3",
        b"{}",
        b'{"age": 300}',
        b'{"age": 1.5}',
        b'{"age": true}',
        b'{"age": "1"}',
        b'{"age": [1, 2]}',
        b'{"age": 99999999999999999999999}',
        b'{"age": null}',
        b'{"age": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_json_refuses_what_does_not_fit_and_goes_on(value: bytes | None) -> None:
    decoder = make_decoder(signature(AGE), StreamInput(topic="t"))
    decoded = decoder.decode([b'{"age": 1}', value, b'{"age": 2}'])
    assert list(decoded.rows) == [0, 2]
    assert list(decoded.errors) == [1]
    assert decoded.tensors["age"].tolist() == [1, 2]


def test_json_keeps_rows_in_their_places_however_many_there_are() -> None:
    decoder = make_decoder(signature(IMAGE, AGE), StreamInput(topic="t"))
    bad = [b"{", b'{"image": [1, 2, 3, 4]}', b'{"image": [1, 2, 3, 4], "age": 300}', b'{"age": 1}']
    values = [b'{"image": [%d, 2, 3, 4], "age": %d}' % (i, i % 100) if i % 7 else bad[i % len(bad)] for i in range(5000)]
    for _ in range(2):
        decoded = decoder.decode(values)
        assert list(decoded.rows) == [i for i in range(5000) if i % 7]
        assert list(decoded.errors) == list(range(0, 5000, 7))
        assert decoded.tensors["image"][:, 0, 0].tolist() == decoded.rows
        assert decoded.tensors["age"].tolist() == [i % 100 for i in decoded.rows]


@pytest.mark.parametrize("value", [b'{"image": [[1, 2, 3], [4]]}', b'{"image": [1, 2, 3]}', b'{"image": [NaN, 1, 1, 1]}'])
def test_json_refuses_a_wrong_shape(value: bytes) -> None:
    decoded = make_decoder(signature(IMAGE), StreamInput(topic="t")).decode([value])
    assert list(decoded.errors) == [0]
    assert len(decoded.tensors["image"]) == 0


def test_json_says_what_is_not_finite_by_null_and_texts() -> None:
    age = TensorSpec(name="age", datatype=Datatype.FP32, shape=(-1,))
    decoder = make_decoder(signature(IMAGE, age), StreamInput(topic="t"))
    image = b'"image": [[null, "Infinity"], ["-Infinity", 1.5]]'
    ages = (b"null", b'"NaN"', b'"Infinity"', b"1", b"1e39", b'"nan"', b"true")
    decoded = decoder.decode([b'{%b, "age": %b}' % (image, each) for each in ages])
    odd = np.array([[np.nan, np.inf], [-np.inf, 1.5]], np.float32)
    assert list(decoded.rows) == [0, 1, 2, 3]
    np.testing.assert_array_equal(decoded.tensors["image"], [odd] * 4)
    np.testing.assert_array_equal(decoded.tensors["age"], np.array([np.nan, np.nan, np.inf, 1], np.float32))
    assert sorted(decoded.errors) == [4, 5, 6]
    assert "out of the range of FP32" in decoded.errors[4].what
    assert 'null or "NaN"' in decoded.errors[5].remedy
    encoder = make_encoder(signature(IMAGE, age), StreamOutput(topic="o"))
    value = encoder.encode({"image": odd[np.newaxis], "age": np.array([-np.inf], np.float32)})
    assert orjson.loads(value[0]) == {"image": [[None, "Infinity"], ["-Infinity", 1.5]], "age": "-Infinity"}


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_json_never_raises_for_what_a_value_holds(values: list[bytes]) -> None:
    decoded = make_decoder(signature(IMAGE, AGE), StreamInput(topic="t")).decode(values)
    assert sorted([*decoded.rows, *decoded.errors]) == list(range(len(values)))


def test_raw_goes_through_both_ways() -> None:
    spec = signature(IMAGE, AGE)
    tensors = {"image": np.arange(8, dtype=np.float32).reshape(2, 2, 2), "age": np.array([1, -2], dtype=np.int8)}
    values = make_encoder(spec, StreamOutput(topic="o", format=Format.RAW)).encode(tensors)
    assert [len(value) for value in values] == [17, 17]
    decoded = make_decoder(spec, StreamInput(topic="t", format=Format.RAW)).decode([values[0], b"short", None, values[1]])
    assert list(decoded.rows) == [0, 3]
    assert sorted(decoded.errors) == [1, 2]
    for name, array in tensors.items():
        np.testing.assert_array_equal(decoded.tensors[name], array)


@pytest.mark.parametrize("format_", [Format.JSON, Format.RAW])
def test_what_is_decoded_may_be_given_away(format_: Format) -> None:
    """So that the rows of a canary are moved, and not all others copied."""
    values = make_encoder(signature(IMAGE), StreamOutput(topic="o", format=format_)).encode(
        {"image": np.ones((5000, 2, 2), np.float32)}
    )
    decoded = make_decoder(signature(IMAGE), StreamInput(topic="t", format=format_)).decode(values)
    assert can_move(decoded.tensors)


def test_json_answers_can_be_read_again() -> None:
    spec = signature(IMAGE, AGE, NAME)
    tensors = {
        "image": np.ones((1, 2, 2), dtype=np.float32),
        "age": np.array([5], dtype=np.int8),
        "name": np.array([b"x"], dtype=np.object_),
    }
    (value,) = make_encoder(spec, StreamOutput(topic="o")).encode(tensors)
    assert orjson.loads(value) == {"image": [[1.0, 1.0], [1.0, 1.0]], "age": 5, "name": "x"}


def test_what_a_format_can_not_carry_is_refused_at_once() -> None:
    with pytest.raises(BadInput, match="no fixed size"):
        make_decoder(signature(NAME), StreamInput(topic="t", format=Format.RAW))
    with pytest.raises(BadInput, match="open axis"):
        make_decoder(signature(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, -1))), StreamInput(topic="t"))
    with pytest.raises(BadInput, match="no input"):
        make_decoder(signature(AGE), StreamInput(topic="t", fields={"agee": "a"}))
