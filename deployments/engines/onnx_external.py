"""Which files an ONNX graph reads its weights from, told from its bytes.

onnxruntime looks for them where the model file lies; of a model that is bytes, in the process's current folder: both nobody
verified. What it is given in memory it takes for the graph's own weights and constants alone; for those of graphs inside nodes,
functions, other attributes and sparse tensors it opens the file all the same. The package onnx, which knows the format, is the
builder's; this reads the few fields of its protobuf that lead there.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple


class OnnxMessage(Enum):
    """Messages of onnx.proto that a tensor can lie in."""

    MODEL = auto()
    TRAINING = auto()
    FUNCTION = auto()
    GRAPH = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    SPARSE = auto()
    TENSOR = auto()
    ENTRY = auto()


# By message: fields that lead to tensors. A tensor's `external_data` is a list of entries, key (1) and value (2).
_LEADS: dict[OnnxMessage, dict[int, OnnxMessage]] = {
    OnnxMessage.MODEL: {7: OnnxMessage.GRAPH, 20: OnnxMessage.TRAINING, 25: OnnxMessage.FUNCTION},
    OnnxMessage.TRAINING: {1: OnnxMessage.GRAPH, 2: OnnxMessage.GRAPH},
    OnnxMessage.FUNCTION: {7: OnnxMessage.NODE, 11: OnnxMessage.ATTRIBUTE},
    OnnxMessage.GRAPH: {1: OnnxMessage.NODE, 5: OnnxMessage.TENSOR, 15: OnnxMessage.SPARSE},
    OnnxMessage.NODE: {5: OnnxMessage.ATTRIBUTE},
    OnnxMessage.ATTRIBUTE: {
        5: OnnxMessage.TENSOR,
        6: OnnxMessage.GRAPH,
        10: OnnxMessage.TENSOR,
        11: OnnxMessage.GRAPH,
        22: OnnxMessage.SPARSE,
        23: OnnxMessage.SPARSE,
    },
    OnnxMessage.SPARSE: {1: OnnxMessage.TENSOR, 2: OnnxMessage.TENSOR},
    OnnxMessage.TENSOR: {13: OnnxMessage.ENTRY},
}
# Fields on the way to what onnxruntime takes from memory; of nodes, those of `Constant` alone.
_FROM_MEMORY = {
    (OnnxMessage.MODEL, 7),
    (OnnxMessage.GRAPH, 1),
    (OnnxMessage.GRAPH, 5),
    (OnnxMessage.NODE, 5),
    (OnnxMessage.ATTRIBUTE, 5),
    (OnnxMessage.TENSOR, 13),
}
_OPERATOR, _DOMAIN, _CONSTANT = 4, 7, b"Constant"  # of a node
# Of the wire: what follows a field's number.
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}
_TAG_BITS = 0xFFFFFFFF
_LOCATION = b"location"


class LocationMention:
    """Whether bytes that go by in blocks may name a file: most models never do, and need not be read for it."""

    def __init__(self) -> None:
        self.seen = False
        self._end = b""

    def look_at(self, block: memoryview) -> None:
        """The next block."""
        if not self.seen:
            content, most = bytes(block), len(_LOCATION) - 1
            self.seen = _LOCATION in content or _LOCATION in self._end + content[:most]
            self._end = (self._end + content[-most:])[-most:]


class LocatedWeights(NamedTuple):
    """A file that a graph names, and whether onnxruntime takes what it reads there from memory."""

    name: str
    from_memory: bool


def located_weights(model: bytes) -> set[LocatedWeights]:
    """The files, by the names that the graph has for them. Raises ValueError where the bytes are no ONNX."""
    if _LOCATION not in model:  # as in nearly every model: then nothing is read field by field
        return set()
    found: set[LocatedWeights] = set()
    left = [(OnnxMessage.MODEL, memoryview(model), True)]
    while left:
        kind, message, from_memory = left.pop()
        fields = [*_fields(message)]
        if kind is OnnxMessage.ENTRY:
            entry = {field: bytes(value) for field, value in fields if field in (1, 2)}
            if entry.get(1) == _LOCATION:
                found.add(LocatedWeights(entry.get(2, b"").decode(), from_memory))
            continue
        if kind is OnnxMessage.NODE:
            named = {field: bytes(value) for field, value in fields if field in (_OPERATOR, _DOMAIN)}
            from_memory &= named.get(_OPERATOR) == _CONSTANT and not named.get(_DOMAIN)
        leads = _LEADS[kind]
        left += [
            (leads[field], value, from_memory and (kind, field) in _FROM_MEMORY) for field, value in fields if field in leads
        ]
    return found


def external_locations(model: bytes) -> set[str]:
    """The names of the files, as the graph has them. Raises ValueError where the bytes are no ONNX."""
    return {one.name for one in located_weights(model)}


def weights_beside(file: Path) -> dict[str, Path]:
    """The files that an ONNX file on this machine reads weights from, by the names that it has for them; none where it holds
    everything, or is no ONNX: whoever reads it says so."""
    try:
        return {name: file.parent / name for name in sorted(external_locations(file.read_bytes()))}
    except ValueError:
        return {}


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that have a length, by number."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        tag &= _TAG_BITS  # as protobuf reads it: what is above must not hide a field from us alone
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire == _VARINT:
            _, at = _varint(message, at)
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise ValueError("is no protobuf of ONNX")
    if at != end:
        raise ValueError("is cut off")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("is cut off")
