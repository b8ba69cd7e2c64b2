"""One tensor on the wire: shapes, raw little-endian bytes and JSON numbers, to and from numpy.

Every fault is a BadInput that names the tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cluster.errors import BadInput
from cluster.signature import Datatype
from deployments.engines.datatypes import NUMPY, Array
from deployments.scoring.nonfinite import REMEDY, has_infinity, numbers, overflown

if TYPE_CHECKING:
    import simdjson

MAX_AXES = 32
MAX_ELEMENTS = 2**31 - 1  # also keeps every product of axes within what numpy can address
BINARY_ONLY = frozenset({Datatype.FP16, Datatype.BF16})

_NAMES = {datatype.value: datatype for datatype in Datatype}
_LENGTH = struct.Struct("<I")
_WIDE = {"d": np.dtype(np.float64), "i": np.dtype(np.int64), "u": np.dtype(np.uint64)}
_FLOATS = frozenset({Datatype.FP32, Datatype.FP64})
_WIRE = {datatype: dtype if datatype is Datatype.BYTES else dtype.newbyteorder("<") for datatype, dtype in NUMPY.items()}


def parse_datatype(value: object, tensor: str) -> Datatype:
    """The datatype of that name. Raises BadInput."""
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]
    raise BadInput(f"{kind_of(value)} is not a datatype", where=f"tensor {tensor!r}", remedy=f"use one of {', '.join(Datatype)}")


def parse_shape(value: object, tensor: str) -> tuple[int, ...]:
    """A shape of at least one axis whose element count is within bounds. Raises BadInput."""
    where = f"tensor {tensor!r}"
    if not isinstance(value, list) or not 0 < len(value) <= MAX_AXES:
        raise BadInput(f"the shape must be a list of 1 to {MAX_AXES} whole numbers; got {kind_of(value)}", where=where)
    elements = 1
    for axis in value:
        if type(axis) is not int or axis < 0:
            raise BadInput(f"each axis of the shape must be a whole number, 0 or more; one is {kind_of(axis)}", where=where)
        elements *= max(axis, 1)
    if elements > MAX_ELEMENTS:
        raise BadInput(f"the shape of {len(value)} axes has more than {MAX_ELEMENTS} elements", where=where)
    return tuple(value)


def from_raw(tensor: str, datatype: Datatype, shape: tuple[int, ...], data: memoryview) -> Array:
    """Reads `data`, row-major and little-endian, without a copy where its alignment allows. Raises BadInput."""
    count = math.prod(shape)
    if datatype is Datatype.BYTES:
        return _objects(_split_bytes(tensor, data, count), shape)
    dtype = _WIRE[datatype]
    if data.nbytes != count * dtype.itemsize:
        raise BadInput(
            f"shape {list(shape)} of {datatype} takes {count * dtype.itemsize} bytes; got {data.nbytes}",
            where=f"tensor {tensor!r}",
        )
    if datatype is Datatype.BOOL and (np.frombuffer(data, np.uint8) > 1).any():
        raise BadInput("a BOOL is one byte, 0 or 1", where=f"tensor {tensor!r}")
    array: Array = np.frombuffer(data, dtype)
    if not array.flags.aligned:
        array = np.frombuffer(bytes(data), dtype)  # as numpy's own copy, but without letting go of the interpreter's lock
    return array.astype(NUMPY[datatype], copy=False).reshape(shape)


def to_raw(datatype: Datatype, array: Array) -> bytes:
    """Row-major, little-endian; each element of BYTES has a 4-byte length before it."""
    if datatype is Datatype.BYTES:
        return b"".join(part for element in _elements(array) for part in (_LENGTH.pack(len(element)), element))
    return array.astype(_WIRE[datatype], copy=False).tobytes()


def from_json(tensor: str, datatype: Datatype, shape: tuple[int, ...], data: simdjson.Array) -> Array:
    """Reads a flat or nested JSON array. Raises BadInput."""
    where = f"tensor {tensor!r}"
    if datatype in BINARY_ONLY:
        raise BadInput(f"{datatype} can't be sent as JSON", where=where, remedy="send it as a binary tensor")
    count = math.prod(shape)
    if datatype is Datatype.BYTES or datatype is Datatype.BOOL:
        kind, of = (str, "strings") if datatype is Datatype.BYTES else (bool, "true or false")
        flat = list(flatten(data.as_list(), where))
        if any(type(element) is not kind for element in flat):
            raise BadInput(f"the data of {datatype} must be {of}", where=where)
        _check_count(where, shape, count, len(flat))
        return _objects([element.encode() for element in flat], shape) if kind is str else np.array(flat, np.bool_).reshape(shape)
    return _numbers(where, datatype, shape, count, data)


def from_objects(tensor: str, shape: tuple[int, ...], data: list[Any], read: Callable[[Any], bytes]) -> Array:
    """BYTES from a flat or nested list, element by element. Raises BadInput, also what `read` raises."""
    where = f"tensor {tensor!r}"
    elements = [read(element) for element in flatten(data, where)]
    _check_count(where, shape, math.prod(shape), len(elements))
    return _objects(elements, shape)


def _numbers(where: str, datatype: Datatype, shape: tuple[int, ...], count: int, data: simdjson.Array) -> Array:
    dtype = NUMPY[datatype]
    letter: Literal["d", "i", "u"] = "d" if datatype in _FLOATS else "u" if datatype is Datatype.UINT64 else "i"
    try:
        # Flattens nested arrays itself and never makes a Python number.
        wide: Array = np.frombuffer(data.as_buffer(of_type=letter), _WIDE[letter])
    except TypeError:
        if letter != "d":
            remedy = "whole numbers have no missing values: send a number for each"
            raise BadInput(f"the data of {datatype} must be whole numbers", where=where, remedy=remedy) from None
        wide = _with_words(where, datatype, data)
    except ValueError:
        raise BadInput(f"a number is out of the range of {datatype}", where=where) from None
    _check_count(where, shape, count, wide.size)
    if wide.dtype == dtype:
        return wide.reshape(shape)
    if letter == "d":
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = wide.astype(dtype)
            inside = not has_infinity(narrow) or not overflown(narrow, wide).any()
    else:
        narrow = wide.astype(dtype)
        inside = np.array_equal(narrow, wide)
    if not inside:
        raise BadInput(f"a number is out of the range of {datatype}", where=where)
    return narrow.reshape(shape)


def _with_words(where: str, datatype: Datatype, data: simdjson.Array) -> Array:
    try:
        return numbers(list(flatten(data.as_list(), where)))
    except (TypeError, OverflowError):
        raise BadInput(f"the data of {datatype} must be numbers", where=where, remedy=REMEDY) from None


def to_json(tensor: str, datatype: Datatype, array: Array) -> Any:
    """Flat data that orjson can write: numbers in a numpy array, BYTES in a list of strings. Raises BadInput where JSON can't."""
    if datatype in BINARY_ONLY:
        raise BadInput(f"{datatype} can't be sent as JSON", where=f"output {tensor!r}", remedy="ask for it as a binary tensor")
    if datatype is not Datatype.BYTES:
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in _elements(array)]
    except UnicodeDecodeError:
        raise BadInput("its bytes are not UTF-8", where=f"output {tensor!r}", remedy="ask for it as a binary tensor") from None


def _check_count(where: str, shape: tuple[int, ...], wanted: int, got: int) -> None:
    if wanted != got:
        raise BadInput(f"shape {list(shape)} takes {wanted} elements; got {got}", where=where)


def _split_bytes(tensor: str, data: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    at, end, where = 0, data.nbytes, f"tensor {tensor!r}"
    while at < end:
        if end - at < 4:
            raise BadInput(f"BYTES data ends within the length of element {len(elements)}", where=where)
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if length > end - at:
            raise BadInput(f"element {len(elements)} says {length} bytes, but {end - at} are left", where=where)
        elements.append(bytes(data[at : at + length]))
        at += length
    if len(elements) != count:
        raise BadInput(f"the shape takes {count} elements; got {len(elements)}", where=where)
    return elements


def _elements(array: Array) -> list[bytes]:
    elements: list[bytes] = array.reshape(-1).tolist()
    return elements


def _objects(elements: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def flatten(values: Iterable[Any], where: str, axes_left: int = MAX_AXES) -> Iterable[Any]:
    """What is in lists of lists, in their order. Raises BadInput."""
    if axes_left == 0:
        raise BadInput("its data is nested too deeply", where=where)
    for value in values:
        if isinstance(value, list):
            yield from flatten(value, where, axes_left - 1)
        else:
            yield value


def kind_of(value: object) -> str:
    """What was sent in place of something else: its kind, for it may be a value that lies in the wrong field."""
    if value is None:
        return "null"
    if type(value) is int:
        return "a number below 0" if value < 0 else "a number"
    return {
        bool: "true or false",
        str: "a text",
        float: "a fraction",
        list: f"a list of {len(value)}" if isinstance(value, list) else "",
    }.get(type(value), "an object")
