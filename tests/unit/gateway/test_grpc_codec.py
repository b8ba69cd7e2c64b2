"""Messages to requests and back: our proto against a client's own, typed and raw tensors, broken bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as theirs

from cluster.errors import BadInput
from cluster.signature import Datatype
from deployments.gateway.protocol.grpc_codec import MAX_FIELDS, parse_infer, request_from, response_to, stream_response
from deployments.gateway.protocol.proto import inference_pb2 as ours
from deployments.gateway.protocol.request import InferRequest
from deployments.gateway.protocol.response import InferResponse, OutputTensor


def messages(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        found[message.full_name] = message
        waiting += message.nested_types
    return found


def kind(field: Any) -> tuple[Any, ...]:
    of = field.message_type or field.enum_type
    return field.number, field.type, field.is_repeated, of and of.full_name


def test_our_messages_are_those_of_the_clients() -> None:
    ours_by_name = messages(ours.DESCRIPTOR)
    for name, message in ours_by_name.items():
        known = theirs.DESCRIPTOR.pool.FindMessageTypeByName(name)
        for field in message.fields:
            assert kind(field) == kind(known.fields_by_name[field.name]), field.full_name
    assert ours.DataType.items() == [(value.name, value.number) for value in theirs.model__config__pb2.DataType.DESCRIPTOR.values]


def test_our_calls_are_those_of_the_clients() -> None:
    known = theirs.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in ours.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        same = known[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            same.input_type.full_name,
            same.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (same.client_streaming, same.server_streaming)


def read(proto: Any) -> InferRequest:
    return request_from(*parse_infer(proto.SerializeToString()))


def typed(datatype: str, shape: list[int], **contents: Any) -> Any:
    proto = theirs.ModelInferRequest(model_name="pair")
    tensor = proto.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return proto


def with_raw(*raw: bytes) -> Any:
    proto = typed("FP32", [1, 2])
    proto.raw_input_contents.extend(raw)
    return proto


def with_parameter(name: str, *, output: bool) -> Any:
    proto = typed("FP32", [1], fp32_contents=[1])
    tensor = proto.outputs.add(name="y") if output else proto.inputs[0]
    tensor.parameters[name].string_param = "region"
    return proto


def test_raw_tensors_are_views_of_the_bytes() -> None:
    proto = typed("FP32", [1, 2])
    proto.inputs.add(name="ids", datatype="BYTES", shape=[2])
    proto.parameters["routing_key"].string_param = "ann"
    proto.raw_input_contents.extend([np.array([1, 2], "<f4").tobytes(), b"\1\0\0\0a\0\0\0\0"])
    proto.id = "7"
    data = proto.SerializeToString()
    head, raw = parse_infer(data)
    assert all(view.obj is data for view in raw)
    request = request_from(head, raw)
    assert request.inputs["x"].tolist() == [[1, 2]]
    assert request.inputs["ids"].tolist() == [b"a", b""]
    assert (request.id, request.parameters, request.outputs) == ("7", {"routing_key": "ann"}, None)


def test_raw_tensors_may_stand_anywhere_in_the_message() -> None:
    raw = theirs.ModelInferRequest(raw_input_contents=[np.array([1, 2], "<f4").tobytes()]).SerializeToString()
    request = request_from(*parse_infer(raw + typed("FP32", [1, 2]).SerializeToString()))
    assert request.inputs["x"].tolist() == [[1, 2]]


def test_what_stands_behind_an_unknown_group_is_read_too() -> None:
    group = b"\xa3\x06\xa4\x06"  # field 100, begun and ended
    head = typed("FP32", [1, 2]).SerializeToString() + group
    raw = theirs.ModelInferRequest(raw_input_contents=[np.array([1, 2], "<f4").tobytes()]).SerializeToString()
    assert request_from(*parse_infer(head + raw)).inputs["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("FP32", "fp32_contents", [0.5, float("inf")]),
        ("FP64", "fp64_contents", [0.1, -1e300]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_typed_contents_are_read(datatype: str, field: str, values: list[Any]) -> None:
    request = read(typed(datatype, [2], **{field: values}))
    assert request.inputs["x"].tolist() == values
    assert request.datatypes["x"] is Datatype(datatype)


@pytest.mark.parametrize(
    ("proto", "fault"),
    [
        (theirs.ModelInferRequest(), "1 to"),
        (typed("INT8", [1], int_contents=[300]), "tensor 'x'.*out of the range"),
        (typed("UINT8", [1], uint_contents=[300]), "tensor 'x'.*out of the range"),
        (typed("INT8", [1], fp32_contents=[3]), "tensor 'x'.*int_contents; got fp32"),
        (typed("FP16", [1]), "tensor 'x'.*no typed contents"),
        (typed("FP32", [2], fp32_contents=[3]), "tensor 'x'.*takes 2 elements; got 1"),
        (typed("FP32", [-1], fp32_contents=[3]), "tensor 'x'.*0 or more"),
        (typed("FP32", [2**40, 2**40]), "tensor 'x'.*more than"),
        (typed("FP32", [1] * 100), "tensor 'x'.*1 to 32"),
        (typed("FLOAT", [1]), "tensor 'x'.*not a datatype"),
        (with_raw(b"\0" * 7), "tensor 'x'.*takes 8 bytes; got 7"),
        (with_raw(b"\0" * 8, b""), "1 inputs, but 2 raw_input_contents"),
        (with_raw(*[b""] * (MAX_FIELDS + 1)), "more than"),
        (with_parameter("shared_memory_region", output=False), "tensor 'x'.*shared_memory_region is not supported"),
        (with_parameter("classification", output=True), "output 'y'.*classification is not supported"),
    ],
)
def test_faults_are_named(proto: Any, fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        read(proto)


def test_contents_and_raw_contents_are_not_mixed() -> None:
    proto = typed("FP32", [1, 2], fp32_contents=[1, 2])
    proto.raw_input_contents.append(b"\0" * 8)
    with pytest.raises(BadInput, match=r"tensor 'x'.*both"):
        read(proto)


def test_tensors_are_named_once() -> None:
    proto = typed("FP32", [1], fp32_contents=[1])
    proto.inputs.append(proto.inputs[0])
    with pytest.raises(BadInput, match=r"tensor 'x'.*twice"):
        read(proto)


@pytest.mark.parametrize("name", ["double", "empty"])
def test_answers_are_read_by_clients(name: str) -> None:
    array = np.zeros((0, 2), np.float32) if name == "empty" else np.arange(200, dtype=np.float32).reshape(-1, 2)
    words = np.array([b"a", b""], np.object_)
    outputs = (OutputTensor(name, Datatype.FP32, array), OutputTensor("words", Datatype.BYTES, words))
    parameters: dict[str, Any] = {"row_versions": "1,2", "flag": True, "count": 3, "share": 0.5, "huge": 2**64}
    data = response_to(InferResponse("pair", "3", outputs, "7", parameters))
    for answer in (
        theirs.ModelInferResponse.FromString(data),
        theirs.ModelStreamInferResponse.FromString(stream_response(data)).infer_response,
    ):
        assert (answer.model_name, answer.model_version, answer.id) == ("pair", "3", "7")
        assert [(output.name, output.datatype, list(output.shape)) for output in answer.outputs] == [
            (name, "FP32", list(array.shape)),
            ("words", "BYTES", [2]),
        ]
        assert list(answer.raw_output_contents) == [array.tobytes(), b"\1\0\0\0a\0\0\0\0"]
        assert answer.parameters["row_versions"].string_param == "1,2"
        assert answer.parameters["flag"].bool_param
        assert answer.parameters["count"].int64_param == 3
        assert answer.parameters["share"].double_param == 0.5
        assert answer.parameters["huge"].string_param == str(2**64)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadInput):
        request_from(*parse_infer(data))


@given(
    st.sampled_from([*Datatype, "x", ""]),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 3), max_size=3),
    st.lists(st.binary(max_size=9), max_size=2),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    st.lists(st.integers(0, 400), max_size=3),
    st.binary(max_size=3),
)
def test_fuzzed_messages_are_read_or_refused(
    datatype: str, shape: list[int], raw: list[bytes], values: list[int], places: list[int], noise: bytes
) -> None:
    proto = typed(datatype, shape, int_contents=values)
    proto.raw_input_contents.extend(raw)
    data = bytearray(proto.SerializeToString())
    for place in places:  # a few bytes changed: most of it stays well-formed
        data[place % len(data)] = (noise or b"\0")[place % max(len(noise), 1)]
    try:
        request = request_from(*parse_infer(bytes(data)))
    except BadInput:
        return
    assert all(array.ndim > 0 for array in request.inputs.values())


@given(st.binary(max_size=60), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_cutting_raw_tensors_out_changes_nothing(name: bytes, raw: list[bytes]) -> None:
    proto = theirs.ModelInferRequest(model_name=name.hex(), raw_input_contents=raw)
    proto.outputs.add(name="y")
    head, cut = parse_infer(proto.SerializeToString())
    assert [bytes(view) for view in cut] == raw
    del proto.raw_input_contents[:]
    assert head.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
