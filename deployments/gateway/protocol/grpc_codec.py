"""Inference requests from, and answers to, the protocol's gRPC messages, as bytes.

Raw tensors never pass through protobuf, which would copy each of them twice: they are cut out of the request's bytes, and put
behind the answer's message. On the wire the fields of a message may come in any order, so both are the same message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from cluster.errors import BadInput
from cluster.signature import Datatype
from deployments.engines.datatypes import NUMPY, Array
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.protocol.request import MAX_NAME, MAX_TENSORS, InferRequest, Parameter, RequestedOutput
from deployments.gateway.protocol.response import InferResponse
from deployments.gateway.protocol.tensors import BINARY_ONLY, MAX_AXES, from_raw, parse_datatype, parse_shape, to_raw

_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
MAX_FIELDS = 4 * MAX_TENSORS  # an empty tensor takes 2 bytes on the wire, and a hundred as a message
_LENGTH_DELIMITED = 2
_RAW_INPUT = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_RAW_OUTPUT = bytes([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_INT64 = range(-(2**63), 2**63)
_UNSUPPORTED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification")


def parse(kind: type[Message], data: bytes) -> Any:
    """A message of that kind. Raises BadInput."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise BadInput(f"not a valid {kind.DESCRIPTOR.full_name}", where="request") from None


def parse_infer(data: bytes | memoryview) -> tuple[pb.ModelInferRequest, list[memoryview]]:
    """The request without its raw tensors, and these as views into `data`. Raises BadInput."""
    head, raw = _split(data)
    proto: pb.ModelInferRequest = parse(pb.ModelInferRequest, head)
    # Empty, but for what stands behind a field of a kind that no version of the protocol has.
    raw += map(memoryview, proto.raw_input_contents)
    return proto, raw


def request_from(proto: pb.ModelInferRequest, raw: list[memoryview]) -> InferRequest:
    """Reads what `parse_infer` gave. Arrays share the bytes' memory where it is aligned. Raises BadInput, naming the tensor."""
    count = len(proto.inputs)
    if not 0 < count <= MAX_TENSORS:
        raise BadInput(f"there must be 1 to {MAX_TENSORS} inputs; got {count}", where="request")
    if raw and len(raw) != count:
        raise BadInput(f"{count} inputs, but {len(raw)} raw_input_contents", where="request")
    arrays: dict[str, Array] = {}
    datatypes: dict[str, Datatype] = {}
    for index, tensor in enumerate(proto.inputs):
        name = _name(tensor.name, arrays, "input")
        _refuse_unsupported(tensor.parameters, f"tensor {name!r}")
        datatype = parse_datatype(tensor.datatype, name)
        shape = parse_shape(list(tensor.shape[: MAX_AXES + 1]), name)
        if not raw:
            arrays[name] = _typed(name, datatype, shape, tensor.contents)
        elif tensor.HasField("contents"):
            raise BadInput("it has both contents and raw_input_contents", where=f"tensor {name!r}")
        else:
            arrays[name] = from_raw(name, datatype, shape, raw[index])
        datatypes[name] = datatype
    wanted: dict[str, RequestedOutput] = {}
    for output in proto.outputs:
        name = _name(output.name, wanted, "output")
        _refuse_unsupported(output.parameters, f"output {name!r}")
        wanted[name] = RequestedOutput(name, True)
    return InferRequest(arrays, datatypes, proto.id, _parameters(proto.parameters), tuple(wanted.values()) or None, True)


def response_to(response: InferResponse) -> bytes:
    """A ModelInferResponse in bytes. Always raw contents: clients read nothing else."""
    proto = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for name, value in response.parameters.items():
        _set_parameter(proto.parameters[name], value)
    tail: list[bytes] = []
    for output in response.outputs:
        proto.outputs.add(name=output.name, datatype=output.datatype.value, shape=output.array.shape)
        data = to_raw(output.datatype, output.array)
        tail += (_RAW_OUTPUT, _varint(len(data)), data)
    return b"".join((proto.SerializeToString(), *tail))


def stream_response(response: bytes) -> bytes:
    """A ModelStreamInferResponse that holds a ModelInferResponse."""
    field = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
    return b"".join((bytes([field]), _varint(len(response)), response))


def _split(data: bytes | memoryview) -> tuple[bytes, list[memoryview]]:
    """Cuts the raw tensors out of a ModelInferRequest's bytes. What is not well-formed is left for protobuf to refuse."""
    view = memoryview(data)
    head: list[memoryview] = []
    raw: list[memoryview] = []
    at = kept_to = fields = 0
    try:
        while at < len(data):
            start = at
            fields += 1
            if fields > MAX_FIELDS:
                raise BadInput(f"it has more than {MAX_FIELDS} fields", where="request")
            tag, at = _read_varint(data, at)
            kind = tag & 7
            if kind == _LENGTH_DELIMITED:
                length, at = _read_varint(data, at)
            elif kind == 0:
                _, at = _read_varint(data, at)
                length = 0
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:  # a group, which no version of the protocol has
                break
            if length > len(data) - at:
                break
            if tag == _RAW_INPUT:
                head.append(view[kept_to:start])
                raw.append(view[at : at + length])
                kept_to = at + length
            at += length
    except IndexError:
        pass  # it ends within a number, and so does what is left of it
    if not raw:
        return bytes(data), raw
    head.append(view[kept_to:])
    return b"".join(head), raw


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends. Raises IndexError where the bytes end within it."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for index in range(1, 10):
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise IndexError("a number of more than 10 bytes")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _typed(name: str, datatype: Datatype, shape: tuple[int, ...], contents: pb.InferTensorContents) -> Array:
    where = f"tensor {name!r}"
    if datatype in BINARY_ONLY:
        raise BadInput(f"{datatype} has no typed contents", where=where, remedy="send raw_input_contents")
    field = _CONTENTS[datatype]
    for given, _ in contents.ListFields():
        if given.name != field:
            raise BadInput(f"{datatype} data must be in {field}; got {given.name}", where=where)
    values = getattr(contents, field)
    if len(values) != math.prod(shape):
        raise BadInput(f"shape {list(shape)} takes {math.prod(shape)} elements; got {len(values)}", where=where)
    if datatype is Datatype.BYTES:
        array = np.empty(len(values), np.object_)
        array[:] = list(values)
        return array.reshape(shape)
    try:
        return np.fromiter(values, NUMPY[datatype], len(values)).reshape(shape)
    except OverflowError:
        raise BadInput(f"a number is out of the range of {datatype}", where=where) from None


def _name(name: str, known: Mapping[str, Any], what: str) -> str:
    if not 0 < len(name) <= MAX_NAME:
        raise BadInput(f"each {what} needs a name of 1 to {MAX_NAME} characters", where="request")
    if name in known:
        raise BadInput(f"the {what} is given twice", where=f"{'tensor' if what == 'input' else what} {name!r}")
    return name


def _refuse_unsupported(parameters: Mapping[str, Any], where: str) -> None:
    for name in _UNSUPPORTED:
        if name in parameters:
            raise BadInput(f"{name} is not supported", where=where)


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    read: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        if field is not None:
            read[name] = getattr(parameter, field)
    return read


def _set_parameter(parameter: pb.InferParameter, value: Parameter) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int) and value in _INT64:
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = str(value)
