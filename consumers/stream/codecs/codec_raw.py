"""Raw tensors: every input of a row in the signature's order, little-endian, C order, nothing between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import BadInput
from cluster.signature import TensorSpec
from consumers.stream.codecs.codec import Decoded, row_bytes
from consumers.stream.log.port import Header
from deployments.engines.datatypes import NUMPY, Array


class RawDecoder:
    """See Decoder. Costs one copy of the batch, which may be written to."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._row = row_bytes(inputs, NUMPY)

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:  # noqa: ARG002
        """See Decoder."""
        size = self._row.itemsize
        rows = [i for i, value in enumerate(values) if value is not None and len(value) == size]
        errors: dict[int, BadInput] = {}
        if len(rows) != len(values):
            good = set(rows)
            errors = {i: self._error(value) for i, value in enumerate(values) if i not in good}
        table = np.frombuffer(bytearray().join([values[i] or b"" for i in rows]), dtype=self._row)
        return Decoded({name: np.ascontiguousarray(table[name]) for name in self._row.names or ()}, rows, errors)

    def _error(self, value: bytes | None) -> BadInput:
        got = "no value" if value is None else f"{len(value)} bytes"
        return BadInput(
            f"a row takes {self._row.itemsize} bytes, got {got}", where="value", remedy="send every input, little-endian"
        )


class RawEncoder:
    """See Encoder."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._row = row_bytes(outputs, NUMPY)

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder."""
        names = self._row.names or ()
        table = np.empty(len(outputs[names[0]]), dtype=self._row)
        for name in names:
            table[name] = outputs[name]
        rows: list[bytes] = table.view(f"V{self._row.itemsize}").tolist()
        return rows
