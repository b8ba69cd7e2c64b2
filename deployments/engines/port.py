"""An engine executes one version inside one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, Self, runtime_checkable

from cluster.errors import BadInput, HeadraceError
from cluster.signature import Signature
from deployments.engines.datatypes import Array


class DeviceLost(HeadraceError):
    """The GPU answers this process no more, whatever it is asked: the process must end."""


class RowsRefused(BadInput):
    """Rows that can't be put to the model, whatever it holds: their sender's fault, by row. The others were not scored."""

    rows: Mapping[int, BadInput] = MappingProxyType({})

    @classmethod
    def of(cls, rows: Mapping[int, BadInput]) -> Self:
        """Reads as its first row's error. `rows` is not empty."""
        first = min(rows)
        error = cls(rows[first].what, where=f"row {first}", remedy=rows[first].remedy)
        error.rows = rows
        return error


class Engine(Protocol):
    """Loaded once from an artifact, then called from several threads at a time.

    Loading verifies the digests and replays the sample rows; it raises BadArtifact where either is off.
    """

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Scores one batch; blocks for as long as the model takes.

        `tensors` holds every input of the signature with its exact dtype, batch axis first, the same number of rows n in
        each; the answer holds every output with n rows. Does not change its input. Raises EngineFailure where the model fails:
        then nothing is said about which row was to blame, nor whether the version or the row is. Raises RowsRefused, once for
        all of them, where rows are certain to be at fault: the model was not asked.
        """


@runtime_checkable
class Differentiable(Protocol):
    """What an engine may offer besides; explanations use it."""

    def gradients(self, tensors: Mapping[str, Array], output: str, weights: Array) -> dict[str, Array]:
        """The derivative of `sum(weights * output)` by each floating-point input, in its shape and datatype; 0 where it has no
        part in it.

        `tensors` are a batch as for `Engine.score`, `weights` have the output's shape. Blocks. Raises EngineFailure where the
        model fails, or no floating-point input has a part in the output that can be derived.
        """


def gradients_of(engine: Engine) -> Callable[[Mapping[str, Array], str, Array], dict[str, Array]] | None:
    """The engine's `gradients`, None where it has none."""
    return engine.gradients if isinstance(engine, Differentiable) else None
