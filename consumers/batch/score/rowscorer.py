"""Scores one batch of tensors and says which of its rows can't be scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cluster.errors import EngineFailure
from consumers.batch.write.records import Pinned
from deployments.artifacts.background import read_background
from deployments.artifacts.fetch import localize
from deployments.artifacts.version_files import open_folder
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine, gradients_of
from deployments.explain.explaining import explain_rows
from deployments.explain.form import ExplainOptions, Explanation

MOST_FAILED = 1000
HOPELESS_ROWS = 500  # as many as a stream lets its version fail before it holds
# Explains a few rows, which share nothing but what does not depend on them. Blocks; raises as `explain_rows` does.
ExplainCall = Callable[[Mapping[str, Array]], list[Explanation]]


class GivenUp(Exception):
    """So many rows fail that the others are not tried. `bad` are the reasons so far; `hopeless`: no row was ever answered."""

    def __init__(self, bad: Mapping[int, str], *, hopeless: bool) -> None:
        super().__init__(f"gave up after {len(bad)} rows")
        self.bad = dict(bad)
        self.hopeless = hopeless


class FailureLimit:
    """How long a scorer goes on while rows fail: to `most_failed` of one call, or HOPELESS_ROWS before any row is answered."""

    def __init__(self, most_failed: int) -> None:
        self._most_failed = most_failed
        self._answered = False
        self._failed_before = 0

    def answered(self) -> None:
        """A row was answered: the version works."""
        self._answered = True

    def check(self, bad: Mapping[int, str]) -> None:
        """`bad` are the rows of this call that failed so far. Raises GivenUp."""
        hopeless = not self._answered and self._failed_before + len(bad) >= HOPELESS_ROWS
        if hopeless or len(bad) > self._most_failed:
            raise GivenUp(bad, hopeless=hopeless)

    def end(self, bad: Mapping[int, str]) -> None:
        """The call is over."""
        self._failed_before += len(bad)


class RowScorer(Protocol):
    """Called from one thread, blocks while the model computes."""

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:
        """Returns the outputs of the good rows, in order, and the others' reasons by their index.

        `tensors` have `rows` rows each, and at least one. Raises NoCapacity where it can't score now, and GivenUp.
        """


@runtime_checkable
class Explains(Protocol):
    """A RowScorer that can also tell why."""

    def explains(self, pinned: Pinned, options: ExplainOptions) -> ExplainCall:
        """What explains rows of the version that it scores with. Raises BadArtifact, Unreachable."""


class EmbeddedScorer:
    """The engine in this process. A call that fails is halved until the rows to blame stand alone."""

    def __init__(self, engine: Engine, *, rows_per_call: int, most_failed: int = MOST_FAILED) -> None:
        self._engine = engine
        self._rows_per_call = rows_per_call
        self._limit = FailureLimit(most_failed)

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:
        """See RowScorer."""
        parts: list[dict[str, Array]] = []
        bad: dict[int, str] = {}
        for start in range(0, rows, self._rows_per_call):
            self._halving(tensors, start, min(start + self._rows_per_call, rows), parts, bad)
        self._limit.end(bad)
        if len(parts) == 1:
            return parts[0], bad
        return {spec.name: _joined([part[spec.name] for part in parts]) for spec in self._engine.signature.outputs}, bad

    def explains(self, pinned: Pinned, options: ExplainOptions) -> ExplainCall:
        """See Explains. By the same engine."""
        background = read_background(open_folder(localize(pinned.artifact_uri, pinned.digest), pinned.digest))
        engine = self._engine

        def explain(tensors: Mapping[str, Array]) -> list[Explanation]:
            return explain_rows(engine.score, tensors, engine.signature, background, options, gradients=gradients_of(engine))

        return explain

    def _halving(
        self, tensors: Mapping[str, Array], start: int, end: int, parts: list[dict[str, Array]], bad: dict[int, str]
    ) -> None:
        try:
            parts.append(self._engine.score({name: tensor[start:end] for name, tensor in tensors.items()}))
        except EngineFailure as error:
            if end - start == 1:
                bad[start] = f"the model fails on this row: {error.what}"
                self._limit.check(bad)
                return
            middle = (start + end) // 2
            self._halving(tensors, start, middle, parts, bad)
            self._halving(tensors, middle, end, parts, bad)
        else:
            self._limit.answered()


def _joined(parts: list[Array]) -> Array:
    if not parts:
        return np.empty(0, dtype=np.float32)
    whole: npt.NDArray[np.generic] = np.concatenate(parts)
    return whole
