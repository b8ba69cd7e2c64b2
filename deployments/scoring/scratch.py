"""Memory for copies of rows, used again: mapping some megabytes anew, page by page, takes longer than the copy itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from deployments.engines.datatypes import Array
from deployments.scoring.rows import Rows

MOST_BYTES = 64 * 1024 * 1024  # kept for later; what is lent out has no bound but its callers'
LEAST_BYTES = 64 * 1024  # less than that is had from the allocator as quickly

_Kind = tuple[str, tuple[int, ...]]


class Scratch:
    """Lends copies of rows. Used from one event loop.

    Where too much is kept, what has lain unused for longest goes: callers choose the shapes, and may never come back to one.
    """

    def __init__(self) -> None:
        self._free: OrderedDict[_Kind, list[Array]] = OrderedDict()  # the kind that was given back last is the last
        self._free_bytes = 0

    def take(self, tensors: Mapping[str, Array], rows: Rows) -> dict[str, Array]:
        """The named rows of every tensor, in memory of their own until `give_back`."""
        return {name: self._copy(tensor, rows) for name, tensor in tensors.items()}

    def give_back(self, lent: Mapping[str, Array]) -> None:
        """Takes back what `take` lent. Only where nobody can read it any more; what never comes back is freed as usual."""
        for array in lent.values():
            buffer = array.base
            if isinstance(buffer, np.ndarray) and buffer.nbytes <= MOST_BYTES:
                self._free.setdefault(_kind(buffer), []).append(buffer)
                self._free.move_to_end(_kind(buffer))
                self._free_bytes += buffer.nbytes
        while self._free_bytes > MOST_BYTES:
            self._drop(next(iter(self._free)), 0)

    def _copy(self, tensor: Array, rows: Rows) -> Array:
        row_bytes = tensor.nbytes // max(len(tensor), 1)
        if tensor.dtype == np.object_ or row_bytes * len(rows) < LEAST_BYTES:
            return tensor[rows]
        buffer = self._fitting(_kind(tensor), len(rows))
        if buffer is None:
            # Batches differ a little in size, and so do their parts.
            buffer = np.empty((len(rows) + len(rows) // 4, *tensor.shape[1:]), tensor.dtype)
        view = buffer[: len(rows)]
        return np.take(tensor, rows, axis=0, out=view, mode="clip")

    def _fitting(self, kind: _Kind, rows: int) -> Array | None:
        for place, buffer in enumerate(self._free.get(kind, ())):
            if len(buffer) >= rows:
                self._drop(kind, place)
                return buffer
        return None

    def _drop(self, kind: _Kind, place: int) -> None:
        buffers = self._free[kind]
        self._free_bytes -= buffers.pop(place).nbytes
        if not buffers:
            del self._free[kind]


def _kind(array: Array) -> _Kind:
    return array.dtype.str, array.shape[1:]
