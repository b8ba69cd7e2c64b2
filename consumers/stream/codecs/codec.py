"""Records' values to tensors and back: the ports, and what decoding yields. formats.py chooses among the codec_*.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from consumers.stream.log.port import Header
from deployments.engines.datatypes import Array


@dataclass(frozen=True, slots=True)
class Decoded:
    """A micro-batch as tensors. Row j of every tensor is value `rows[j]`; `errors` are the values that could not be decoded."""

    tensors: dict[str, Array]
    rows: Sequence[int]
    errors: dict[int, BadInput]


class Decoder(Protocol):
    """Called once a micro-batch, from one thread."""

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """Decodes n values; never raises for what a value holds. A value of None is an error too.

        `headers` are the records' own, in the same order, for formats that look at them. May block and raise Unreachable where
        the format asks a registry.
        """


class Encoder(Protocol):
    """Called once a micro-batch, from one thread."""

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """One value a row. May block and raise Unreachable where the format asks a registry."""


def row_bytes(specs: Sequence[TensorSpec], dtypes: Mapping[Datatype, np.dtype[np.generic]]) -> np.dtype[np.void]:
    """One row of these tensors laid end to end, little-endian. Raises BadInput for BYTES or an open axis."""
    for spec in specs:
        if spec.datatype is Datatype.BYTES or -1 in spec.shape[1:]:
            raise BadInput(
                f"{spec.name} ({spec.datatype}, {list(spec.shape)}) has no fixed size", where="format", remedy="use format json"
            )
    return np.dtype([(spec.name, dtypes[spec.datatype].newbyteorder("<"), spec.shape[1:]) for spec in specs])
