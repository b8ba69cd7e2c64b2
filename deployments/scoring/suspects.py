"""Rows that replicas died under: which batches may still hold the one at fault, remembered by content from call to call. Pure.

A row is a suspect once replicas died under its batch. Suspects are asked again in groups a sixteenth of the size they last died
in, so one row among 2048 is found after three deaths more. One that kills twice on its own is convicted, and never asked again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xxhash

from deployments.engines.datatypes import Array
from deployments.scoring.rows import Rows

SMALLER = 16
REMEMBERED = 100_000  # rows; the oldest are forgotten first
_CONVICTED = 0


class Suspects:
    """What is known of one version. Holds, by a row's mark, the size of the group that it last died in."""

    def __init__(self) -> None:
        self.last_death_s = 0.0
        self._died_in: dict[int, int] = {}
        self._alone: set[int] = set()

    def convicted(self, marks: Sequence[int]) -> list[int]:
        """The places of the rows that are known to kill replicas."""
        return [place for place, mark in enumerate(marks) if self._died_in.get(mark) == _CONVICTED]

    def groups(self, marks: Sequence[int]) -> list[Rows]:
        """The places of all other rows, in the groups to ask in: those above suspicion together, first."""
        clean: list[int] = []
        suspects: dict[int, list[int]] = {}
        for place, mark in enumerate(marks):
            died_in = self._died_in.get(mark)
            if died_in is None:
                clean.append(place)
            elif died_in != _CONVICTED:
                suspects.setdefault(math.ceil(died_in / SMALLER), []).append(place)
        groups = [np.array(clean, np.intp)] if clean else []
        for size, places in sorted(suspects.items(), reverse=True):
            groups += [np.array(places[start : start + size], np.intp) for start in range(0, len(places), size)]
        return groups

    def died(self, marks: Sequence[int], now_s: float) -> None:
        """A replica died under a group of just these rows."""
        self.last_death_s = now_s
        size = len(marks)
        if size == 1 and marks[0] in self._alone:
            size = _CONVICTED
        elif size == 1:
            self._alone.add(marks[0])
        for mark in marks:
            self._died_in.pop(mark, None)  # to be the newest
            self._died_in[mark] = size
        while len(self._died_in) > REMEMBERED:
            oldest = next(iter(self._died_in))
            del self._died_in[oldest]
            self._alone.discard(oldest)

    def survived(self, marks: Sequence[int]) -> None:
        """A group of these rows was scored."""
        for mark in marks:
            self._died_in.pop(mark, None)
            self._alone.discard(mark)


def marks_of(tensors: Mapping[str, Array]) -> list[int]:
    """One number a row, the same wherever the row's content is."""
    rows = len(next(iter(tensors.values())))
    return [_mark(tensors, row) for row in range(rows)]


def _mark(tensors: Mapping[str, Array], row: int) -> int:
    digest = xxhash.xxh3_64()
    for name in sorted(tensors):
        inner = tensors[name][row]
        if tensors[name].dtype == np.object_:
            for item in np.asarray(inner, np.object_).ravel():
                digest.update(len(item).to_bytes(8, "little"))
                digest.update(item)
        else:
            digest.update(np.asarray(inner).tobytes())
    return digest.intdigest()
