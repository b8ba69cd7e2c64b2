"""An engine executes one version inside one process."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, Self

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
