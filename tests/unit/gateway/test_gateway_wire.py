"""The wire code: what is sent is what is read, and anything else is a BadInput that names the tensor and the fault."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cluster.errors import BadInput, TooLarge
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array
from deployments.gateway.protocol.compression import WORTH_BYTES, deflate, inflate
from deployments.gateway.protocol.request import parse_raw_request, parse_request
from deployments.gateway.protocol.response import SLICE_ITEMS, InferResponse, OutputTensor, encode_response
from deployments.gateway.protocol.tensors import BINARY_ONLY, from_raw, to_json, to_raw
from deployments.gateway.protocol.v1 import encode_v1, parse_v1

DATATYPES = st.sampled_from(list(Datatype))
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, datatypes: st.SearchStrategy[Datatype] = DATATYPES) -> tuple[Datatype, Array]:
    datatype = draw(datatypes)
    shape = draw(SHAPES)
    if datatype is Datatype.BYTES:
        elements = draw(st.lists(st.binary(max_size=8), min_size=math.prod(shape), max_size=math.prod(shape)))
        array = np.empty(len(elements), np.object_)
        array[:] = elements
        return datatype, array.reshape(shape)
    return datatype, draw(hnp.arrays(NUMPY[datatype], shape))


def binary_body(named: dict[str, tuple[Datatype, Array]], **more: Any) -> tuple[bytes, int]:
    tail = {name: to_raw(datatype, array) for name, (datatype, array) in named.items()}
    inputs = [
        {"name": name, "shape": array.shape, "datatype": datatype.value, "parameters": {"binary_data_size": len(tail[name])}}
        for name, (datatype, array) in named.items()
    ]
    header = orjson.dumps({"inputs": inputs, **more})
    return header + b"".join(tail.values()), len(header)


def json_body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def one(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **changes}


def same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and to_bytes(left) == to_bytes(right)


def to_bytes(array: Array) -> Any:
    return array.tolist() if array.dtype == np.object_ else array.tobytes()


@given(st.dictionaries(st.text(min_size=1, max_size=5, alphabet="abcé☃"), tensors(), min_size=1, max_size=4))
def test_binary_tensors_arrive_as_they_were_sent(named: dict[str, tuple[Datatype, Array]]) -> None:
    body, header_bytes = binary_body(named)
    request = parse_request(body, header_bytes)
    assert request.datatypes == {name: datatype for name, (datatype, _) in named.items()}
    for name, (_, array) in named.items():
        assert same(request.inputs[name], array)


@given(tensors(), st.booleans())
def test_json_tensors_arrive_as_they_were_sent(tensor: tuple[Datatype, Array], nested: bool) -> None:
    datatype, array = tensor
    if datatype in BINARY_ONLY:
        with pytest.raises(BadInput, match="can't be sent as JSON"):
            to_json("y", datatype, array)
        return
    if datatype is Datatype.BYTES:
        array = np.array([element.decode("latin-1").encode() for element in array.reshape(-1)] + [b""], np.object_)[:-1].reshape(
            array.shape
        )
    elif datatype in (Datatype.FP32, Datatype.FP64):
        array = np.nan_to_num(array)
    data = to_json("x", datatype, array)
    if nested and datatype is not Datatype.BYTES:
        data = data.reshape(array.shape)
    body = orjson.dumps(
        {"inputs": [{"name": "x", "shape": array.shape, "datatype": datatype.value, "data": data}]},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    assert same(parse_request(body).inputs["x"], array)


def test_json_and_binary_tensors_mix() -> None:
    raw = np.arange(3, dtype="<i8")
    binary = {"name": "b", "shape": [3], "datatype": "INT64", "parameters": {"binary_data_size": 24}}
    header = json_body(one(name="a"), binary, one(name="c", datatype="BYTES", data=["é", ""]))
    request = parse_request(header + raw.tobytes(), len(header))
    assert request.inputs["a"].tolist() == [[1.0, 2.0]]
    assert request.inputs["b"].tolist() == [0, 1, 2]
    assert request.inputs["c"].tolist() == [["é".encode(), b""]]


def test_ids_parameters_and_wishes_are_read() -> None:
    outputs = [{"name": "p"}, {"name": "q", "parameters": {"binary_data": False}}]
    request = parse_request(
        json_body(one(), id="7", parameters={"binary_data_output": True, "routing_key": "ann"}, outputs=outputs)
    )
    assert request.id == "7"
    assert request.parameters["routing_key"] == "ann"
    assert request.binary
    assert request.outputs is not None
    assert [(output.name, output.binary) for output in request.outputs] == [("p", None), ("q", False)]


def test_a_raw_request_is_the_tensor() -> None:
    signature = Signature(inputs=(TensorSpec(name="x", datatype=Datatype.INT16, shape=(-1, 2)),), outputs=())
    assert parse_raw_request(np.arange(6, dtype="<i2").tobytes(), signature).inputs["x"].tolist() == [[0, 1], [2, 3], [4, 5]]
    words = Signature(inputs=(TensorSpec(name="x", datatype=Datatype.BYTES, shape=(-1, 1)),), outputs=())
    assert parse_raw_request(b"whole", words).inputs["x"].tolist() == [[b"whole"]]
    for fault in (b"", b"123"):
        with pytest.raises(BadInput, match="a row takes 4 bytes"):
            parse_raw_request(fault, signature)


DEEP = b"[" * 5_000 + b"]" * 5_000
HOSTILE: list[tuple[bytes, str]] = [
    (b"", "the body is empty"),
    (b"{", "not valid JSON"),
    (b"[]", "must be an object"),
    (b'{"inputs": ' + DEEP + b"}", "not valid JSON"),
    (
        b'{"inputs": [{"name":"x","shape":[1],"datatype":"BYTES","data":' + b"[" * 200 + b"]" * 200 + b"}]}",
        "tensor 'x'.*too deeply",
    ),
    (b'{"inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}', "no NaN"),
    (json_body(), "list of 1 to"),
    (json_body(one(), one()), "tensor 'x'.*twice"),
    (json_body(one(), outputs=[{"name": "y"}, {"name": "y"}]), "output 'y'.*twice"),
    (json_body(one(), outputs=[{"name": "y", "parameters": {"classification": 3}}]), "output 'y'.*not supported"),
    (json_body(one(name="")), "needs a name"),
    (json_body(one(name=3)), "needs a name"),
    (json_body(one(datatype="FLOAT")), "tensor 'x'.*not a datatype"),
    (json_body(one(datatype=["FP32"])), "tensor 'x'.*not a datatype"),
    (json_body(one(shape=[-1, 2])), "tensor 'x'.*0 or more"),
    (json_body(one(shape=[True, 2])), "tensor 'x'.*0 or more"),
    (json_body(one(shape=[1.0, 2])), "tensor 'x'.*0 or more"),
    (json_body(one(shape="12")), "tensor 'x'.*list of 1 to"),
    (json_body(one(shape=[])), "tensor 'x'.*list of 1 to"),
    (json_body(one(shape=[1] * 33)), "tensor 'x'.*list of 1 to"),
    (json_body(one(shape=[2**33, 2**31, 0])), "tensor 'x'.*more than"),
    (json_body(one(shape=[2**62, 4])), "tensor 'x'.*more than"),
    (json_body(one(shape=[3, 2])), "tensor 'x'.*takes 6 elements; got 2"),
    (json_body(one(data="12")), "tensor 'x'.*must be a list"),
    (json_body(one(data=[1, "2"])), "tensor 'x'.*must be numbers"),
    (json_body(one(data=[1, "nan"])), "tensor 'x'.*must be numbers.*null or .NaN.*Infinity"),
    (json_body(one(data=[1, True])), "tensor 'x'.*must be numbers"),
    (json_body(one(datatype="INT64", data=[1, None])), "tensor 'x'.*whole numbers have no missing"),
    (json_body(one(datatype="BOOL", data=[True, None])), "tensor 'x'.*true or false"),
    (json_body(one(datatype="BYTES", data=["a", None])), "tensor 'x'.*strings"),
    (json_body(one(data=["Infinity", 1e300])), "tensor 'x'.*out of the range of FP32"),
    (json_body(one(data=[1, 1e300])), "tensor 'x'.*out of the range of FP32"),
    (json_body(one(datatype="INT8", data=[1, 128])), "tensor 'x'.*out of the range of INT8"),
    (json_body(one(datatype="UINT8", data=[1, -1])), "tensor 'x'.*out of the range of UINT8"),
    (json_body(one(datatype="UINT64", data=[1, -1])), "tensor 'x'.*out of the range of UINT64"),
    (json_body(one(datatype="INT64", data=[1, 2**64])), "not valid JSON"),
    (json_body(one(datatype="INT64", data=[1, 1.5])), "tensor 'x'.*whole numbers"),
    (json_body(one(datatype="BOOL", data=[1, 0])), "tensor 'x'.*true or false"),
    (json_body(one(datatype="BYTES", data=["a", 1])), "tensor 'x'.*strings"),
    (json_body(one(datatype="FP16")), "tensor 'x'.*binary"),
    (json_body(one(datatype="BF16")), "tensor 'x'.*binary"),
    (json_body(one(parameters={"binary_data_size": 8})), "tensor 'x'.*both"),
    (json_body(one(parameters={"a": [1]})), "tensor 'x'.*parameter 'a'"),
    (
        json_body({"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}),
        "not shared memory",
    ),
    (
        json_body({"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}),
        "tensor 'x'.*0 bytes are left",
    ),
    (json_body(one(), id=3), "id must be a string"),
    (json_body(one(), parameters=[1]), "parameters must be an object"),
    (json_body(one(), parameters={"binary_data_output": 1}), "must be true or false"),
]


@pytest.mark.parametrize(("body", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_hostile_input_is_named(body: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_request(body)


@pytest.mark.parametrize("header_bytes", [0, -1, 10**15])
def test_a_header_length_out_of_range_is_named(header_bytes: int) -> None:
    with pytest.raises(BadInput, match="Inference-Header-Content-Length"):
        parse_request(json_body(one()), header_bytes)


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        (Datatype.FP32, b"1234", "takes 8 bytes; got 4"),
        (Datatype.BOOL, b"\x00\x02", "0 or 1"),
        (Datatype.BYTES, b"\x01\x00", "ends within the length of element 0"),
        (Datatype.BYTES, b"\xff\xff\xff\xff", "4294967295 bytes, but 0 are left"),
        (Datatype.BYTES, b"\x00\x00\x00\x00", "takes 2 elements; got 1"),
    ],
)
def test_broken_binary_data_is_named(datatype: Datatype, data: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=f"tensor 'x'.*{message}"):
        from_raw("x", datatype, (1, 2), memoryview(data))


def test_bytes_after_the_last_tensor_are_refused() -> None:
    header = json_body(one())
    with pytest.raises(BadInput, match="3 bytes follow"):
        parse_request(header + b"abc", len(header))


def test_a_parser_serves_again_after_a_fault_that_is_kept() -> None:
    with pytest.raises(BadInput) as kept:
        parse_request(json_body(one(data=[1, "2"])))
    assert parse_request(json_body(one())).inputs["x"].tolist() == [[1.0, 2.0]]
    assert kept.value.what


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "shape", "data", "parameters"]), inner, max_size=3)
    ),
    max_leaves=8,
)
BROKEN = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | JSON,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | JSON,
        "datatype": st.sampled_from([datatype.value for datatype in Datatype]) | JSON,
        "data": st.lists(st.integers(0, 1) | st.booleans() | st.text(max_size=1), max_size=4) | JSON,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "a"]), st.integers(-1, 9) | JSON, max_size=2) | JSON,
    },
)


@settings(max_examples=300)
@given(st.lists(BROKEN, max_size=2), st.lists(BROKEN, max_size=2) | JSON, st.binary(max_size=9), st.integers(-2, 2))
def test_fuzzed_requests_are_read_or_refused(inputs: list[Any], outputs: Any, tail: bytes, shift: int) -> None:
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    refused_or(lambda: parse_request(header + tail, len(header) + shift))


@given(st.binary(max_size=64), st.none() | st.integers(-1, 70))
def test_fuzzed_bytes_are_read_or_refused(body: bytes, header_bytes: int | None) -> None:
    refused_or(lambda: parse_request(body, header_bytes))


@given(DATATYPES, SHAPES, st.binary(max_size=32))
def test_fuzzed_tensors_are_read_or_refused(datatype: Datatype, shape: tuple[int, ...], data: bytes) -> None:
    array = refused_or(lambda: from_raw("x", datatype, shape, memoryview(data)))
    assert array is None or (array.shape == shape and to_raw(datatype, array) == data)


@given(JSON)
def test_fuzzed_v1_bodies_are_read_or_refused(instances: Any) -> None:
    signature = Signature(inputs=(TensorSpec(name="name", datatype=Datatype.FP32, shape=(-1, 2)),), outputs=())
    refused_or(lambda: parse_v1(json.dumps({"instances": instances}).encode(), signature))


def refused_or(read: Any) -> Any:
    """What was read, or None where it was refused; any other error fails the test."""
    try:
        return read()
    except BadInput as refusal:
        told = refusal
    assert told.what
    assert told.where
    return None


@given(tensors(), tensors(st.sampled_from([datatype for datatype in Datatype if datatype not in BINARY_ONLY | {Datatype.BYTES}])))
def test_answers_hold_what_was_scored(binary: tuple[Datatype, Array], text: tuple[Datatype, Array]) -> None:
    outputs = (OutputTensor("b", *binary, binary=True), OutputTensor("t", *text))
    body, header_bytes = encode_response(InferResponse("m", "3", outputs, "id", {"a": 1}))
    document = orjson.loads(body[:header_bytes])
    assert (document["model_name"], document["model_version"], document["id"], document["parameters"]) == (
        "m",
        "3",
        "id",
        {"a": 1},
    )
    first, second = document["outputs"]
    assert first["parameters"]["binary_data_size"] == len(body) - (header_bytes or 0)
    assert same(from_raw("b", binary[0], tuple(first["shape"]), memoryview(body)[header_bytes:]), binary[1])
    back = np.array(second["data"], text[1].dtype).reshape(second["shape"])  # as the protocol's clients do
    assert np.array_equal(back, text[1], equal_nan=back.dtype.kind == "f")


ODD = np.array([[math.nan, math.inf], [-math.inf, 1.5]], np.float32)


@pytest.mark.parametrize("data", [[None, "Infinity", "-Infinity", 1.5], [["NaN", "Infinity"], ["-Infinity", 1.5]]])
def test_json_says_what_is_not_finite_by_null_and_texts(data: list[Any]) -> None:
    body = json_body({"name": "x", "shape": [2, 2], "datatype": "FP32", "data": data})
    np.testing.assert_array_equal(parse_request(body).inputs["x"], ODD)
    told = InferResponse("m", "1", (OutputTensor("x", Datatype.FP32, ODD), OutputTensor("n", Datatype.BOOL, np.array([True]))))
    document = orjson.loads(encode_response(told)[0])
    assert [output["data"] for output in document["outputs"]] == [[None, "Infinity", "-Infinity", 1.5], [True]]


@pytest.mark.parametrize("odd", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.INT64, Datatype.BYTES])
def test_what_is_large_is_written_in_slices_and_nobody_sees_it(datatype: Datatype, odd: float | None) -> None:
    items = np.arange(3 * SLICE_ITEMS + 5)
    array: Array = items.astype(np.float32) if datatype is Datatype.FP32 else items
    if datatype is Datatype.BYTES:
        array = np.array([b"%d" % item for item in items], np.object_)
    elif odd is not None and datatype is Datatype.FP32:
        array[SLICE_ITEMS + 3] = odd

    def written(part: Array) -> list[Any]:
        body, _ = encode_response(InferResponse("m", "1", (OutputTensor("y", datatype, part),)))
        (output,) = json.loads(body)["outputs"]
        return output["data"]  # type: ignore[no-any-return]

    whole = written(array)
    assert len(whole) == len(array)
    for at in range(0, len(array), SLICE_ITEMS // 2):
        assert whole[at : at + 9] == written(array[at : at + 9])


def test_v1_says_what_is_not_finite_alike() -> None:
    pair = Signature(inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),), outputs=())
    rows = [[None, "Infinity"], ["-Infinity", 1.5]]
    np.testing.assert_array_equal(parse_v1(orjson.dumps({"instances": rows}), pair).inputs["x"], ODD)
    objects = orjson.dumps({"instances": [{"x": row} for row in rows]})
    np.testing.assert_array_equal(parse_v1(objects, pair).inputs["x"], ODD)
    one = OutputTensor("x", Datatype.FP32, ODD)
    assert orjson.loads(encode_v1(InferResponse("m", "1", (one,))))["predictions"] == rows
    two = (one, OutputTensor("y", Datatype.FP64, np.array([math.inf, 2.0])))
    assert orjson.loads(encode_v1(InferResponse("m", "1", two)))["predictions"] == [
        {"x": rows[0], "y": "Infinity"},
        {"x": rows[1], "y": 2.0},
    ]


def test_v1_rows_may_be_lists_or_objects() -> None:
    two = Signature(
        inputs=(
            TensorSpec(name="a", datatype=Datatype.FP32, shape=(-1, 2)),
            TensorSpec(name="b", datatype=Datatype.BYTES, shape=(-1,)),
        ),
        outputs=(),
    )
    request = parse_v1(b'{"instances": [{"a": [1, 2], "b": "u"}, {"a": [3, 4], "b": "v"}]}', two)
    assert request.inputs["a"].tolist() == [[1, 2], [3, 4]]
    assert request.inputs["b"].tolist() == [b"u", b"v"]
    with pytest.raises(BadInput, match="an object with the inputs a, b"):
        parse_v1(b'{"instances": [[1, 2]]}', two)
    with pytest.raises(BadInput, match=r"tensor 'b'.*lacks"):
        parse_v1(b'{"instances": [{"a": [1, 2]}]}', two)
    words = np.array([[b"u", b"v"]], np.object_)
    answer = InferResponse(
        "m", "1", (OutputTensor("p", Datatype.BYTES, words), OutputTensor("q", Datatype.INT8, np.array([4], np.int8)))
    )
    assert orjson.loads(encode_v1(answer))["predictions"] == [{"p": ["u", "v"], "q": 4}]


def spec(name: str, datatype: Datatype, *inner: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *inner))


def test_v1_takes_columns_too_and_answers_so() -> None:
    one = Signature(inputs=(spec("a", Datatype.FP32, 2),), outputs=())
    two = Signature(inputs=(spec("a", Datatype.FP32, 2), spec("b", Datatype.BYTES)), outputs=())
    for body in (b'{"inputs": [[1, 2], [3, 4]]}', b'{"inputs": {"a": [[1, 2], [3, 4]]}}'):
        request = parse_v1(body, one)
        assert request.columns
        assert request.inputs["a"].tolist() == [[1, 2], [3, 4]]
    request = parse_v1(b'{"inputs": {"a": [[1, 2], [3, 4]], "b": ["u", "v"]}}', two)
    assert (request.inputs["a"].tolist(), request.inputs["b"].tolist()) == ([[1, 2], [3, 4]], [b"u", b"v"])
    for wrong, words in (
        (b'{"inputs": [[1, 2]]}', "an object with the inputs a, b"),
        (b'{"inputs": 3}', "an object with the inputs a, b"),
        (b'{"inputs": {"a": [[1, 2]]}}', "tensor 'b'.*a list of all rows"),
    ):
        with pytest.raises(BadInput, match=words):
            parse_v1(wrong, two)
    outputs = OutputTensor("p", Datatype.INT8, np.array([4, 5], np.int8)), OutputTensor("q", Datatype.INT8, np.ones(2, np.int8))
    assert orjson.loads(encode_v1(InferResponse("m", "1", outputs[:1]), columns=True))["outputs"] == [4, 5]
    assert orjson.loads(encode_v1(InferResponse("m", "1", outputs), columns=True))["outputs"] == {"p": [4, 5], "q": [1, 1]}


@pytest.mark.parametrize(
    ("shape", "instances", "wanted"),
    [
        ((2, 2), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]),  # a flat row
        ((1,), [1, 2], [[1], [2]]),  # one value a row, as it is
        ((), [1, 2], [1, 2]),
        ((), [[1], [2]], [1, 2]),
    ],
)
def test_v1_rows_may_be_flat(shape: tuple[int, ...], instances: list[Any], wanted: list[Any]) -> None:
    signature = Signature(inputs=(spec("x", Datatype.FP32, *shape),), outputs=())
    assert parse_v1(orjson.dumps({"instances": instances}), signature).inputs["x"].tolist() == wanted


@pytest.mark.parametrize(
    ("datatype", "shape", "instances"),
    [
        (Datatype.FP32, (2,), [[1, 2], [3], [4, 5, 6]]),
        (Datatype.FP32, (2,), [[1, 2], 3, 4, [5, 6]]),
        (Datatype.BYTES, (2,), [["a", "b"], ["c"], ["d", "e", "f"]]),
        (Datatype.INT8, (2, 16), [[[1] * 16] * 2, [[1] * 15, [2] * 17]]),
        (Datatype.FP32, (2,), [{"x": [1, 2]}, {"x": [3]}, {"x": [4, 5, 6]}]),
        (Datatype.FP32, (2, 2), [[[1, 2], [3, 4, 5]], [[1], [2, 3]]]),
        (Datatype.FP32, (2, 2), [[[1, "NaN"], [3, 4, 5]], [[1], [2, 3]]]),
        (Datatype.BYTES, (2, 2), [[["a", "b"], ["c", "d", "e"]], [["f"], ["g", "h"]]]),
        (Datatype.FP32, (2, 2), [[[1, 2], [3, 4]], "ab"]),
        (Datatype.FP32, (2, 2), [[[1, 2], [3, 4]], {"a": 1, "b": 2}]),
        (Datatype.INT64, (20, 2), [[[1, 2]] * 19 + [[3]], [[1, 2]] * 19 + [[3, 4, 5]]]),
    ],
)
def test_no_row_of_v1_gets_the_numbers_of_its_neighbour(datatype: Datatype, shape: tuple[int, ...], instances: list[Any]) -> None:
    signature = Signature(inputs=(spec("x", datatype, *shape),), outputs=())
    with pytest.raises(BadInput, match=r"tensor 'x': (its rows are of different lengths|shape .* takes)"):
        parse_v1(orjson.dumps({"instances": instances}), signature)


def test_v1_says_texts_of_no_length() -> None:
    none = OutputTensor("words", Datatype.BYTES, np.empty((2, 0), np.object_))
    assert orjson.loads(encode_v1(InferResponse("m", "1", (none,))))["predictions"] == [[], []]


def test_v1_bytes_may_be_base64() -> None:
    one = Signature(inputs=(spec("image", Datatype.BYTES),), outputs=())
    for body in (
        b'{"instances": [{"b64": "/9g="}, {"b64": ""}]}',
        b'{"instances": [{"image": {"b64": "/9g="}}, {"image": ""}]}',
        b'{"inputs": [{"b64": "/9g="}, ""]}',
    ):
        assert parse_v1(body, one).inputs["image"].tolist() == [b"\xff\xd8", b""]
    for wrong in (b'{"instances": [{"b64": "/9g"}]}', b'{"instances": [{"b64": "\xc3\xa9"}]}', b'{"instances": [{"b64": 3}]}'):
        with pytest.raises(BadInput, match=r"tensor 'image'.*(base64|b64)"):
            parse_v1(wrong, one)


def test_a_raw_request_of_a_free_axis_is_one_row_as_long_as_its_bytes() -> None:
    free = Signature(inputs=(spec("x", Datatype.INT16, 2, -1),), outputs=())
    assert parse_raw_request(np.arange(6, dtype="<i2").tobytes(), free).inputs["x"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    for fault in (b"", b"123", b"123456"):
        with pytest.raises(BadInput, match="4 bytes a step"):
            parse_raw_request(fault, free)
    with pytest.raises(BadInput, match="can't be told"):
        parse_raw_request(b"1234", Signature(inputs=(spec("x", Datatype.INT16, -1, -1),), outputs=()))


@pytest.mark.parametrize("accepted", ["gzip;q=0", "gzip;q=0.0, deflate;q=0.000", "gzip; q=0", "", "identity"])
def test_what_a_caller_refuses_is_not_sent(accepted: str) -> None:
    body = b"x" * WORTH_BYTES
    assert deflate(body, accepted) == (body, "")
    assert deflate(body, "gzip;q=0.5")[1] == "gzip"
    assert deflate(body, "gzip;q=0.0, deflate")[1] == "deflate"


def test_gzip_of_several_members_is_read_to_its_end() -> None:
    whole = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two")
    assert inflate(whole, "gzip", 6) == b"onetwo"
    with pytest.raises(TooLarge):
        inflate(whole, "gzip", 5)
    with pytest.raises(BadInput):
        inflate(whole[:-1], "gzip", 10)
    with pytest.raises(TooLarge, match="members"):
        inflate(gzip.compress(b"") * 100, "gzip", 10)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)])
def test_bodies_are_inflated(encoding: str, pack: Any) -> None:
    assert inflate(pack(b"x" * 1000), encoding, 1000) == b"x" * 1000


def test_broken_and_bombing_bodies_are_refused() -> None:
    whole = gzip.compress(b"x" * 1000)
    with pytest.raises(TooLarge, match="more than 999 bytes"):
        inflate(whole, "gzip", 999)
    for body, encoding in ((b"junk", "gzip"), (whole[:-3], "gzip"), (whole + b"more", "gzip"), (whole, "br")):
        with pytest.raises(BadInput, match="Content-Encoding"):
            inflate(body, encoding, 10_000)
