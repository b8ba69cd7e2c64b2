"""Scores one batch of tensors and says which of its rows can't be scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cluster.errors import EngineFailure
from deployments.datatypes import Array
from deployments.engines.port import Engine


class RowScorer(Protocol):
    """Called from one thread, blocks while the model computes."""

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:
        """Returns the outputs of the good rows, in order, and the others' reasons by their index.

        `tensors` have `rows` rows each, and at least one. Raises NoCapacity where it can't score now.
        """


class EmbeddedScorer:
    """The engine in this process. A call that fails is halved until the rows to blame stand alone."""

    def __init__(self, engine: Engine, *, rows_per_call: int) -> None:
        self._engine = engine
        self._rows_per_call = rows_per_call

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:
        """See RowScorer."""
        parts: list[dict[str, Array]] = []
        bad: dict[int, str] = {}
        for start in range(0, rows, self._rows_per_call):
            self._halving(tensors, start, min(start + self._rows_per_call, rows), parts, bad)
        if len(parts) == 1:
            return parts[0], bad
        return {spec.name: _joined([part[spec.name] for part in parts]) for spec in self._engine.signature.outputs}, bad

    def _halving(
        self, tensors: Mapping[str, Array], start: int, end: int, parts: list[dict[str, Array]], bad: dict[int, str]
    ) -> None:
        try:
            parts.append(self._engine.score({name: tensor[start:end] for name, tensor in tensors.items()}))
        except EngineFailure as error:
            if end - start == 1:
                bad[start] = f"the model fails on this row: {error.what}"
                return
            middle = (start + end) // 2
            self._halving(tensors, start, middle, parts, bad)
            self._halving(tensors, middle, end, parts, bad)


def _joined(parts: list[Array]) -> Array:
    if not parts:
        return np.empty(0, dtype=np.float32)
    whole: npt.NDArray[np.generic] = np.concatenate(parts)
    return whole
