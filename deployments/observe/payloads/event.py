"""One prediction as the payload log keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from cluster.watch.catalogue import ScoringWay
from deployments.engines.datatypes import Array


class PayloadOutcome(StrEnum):
    """What became of a prediction."""

    OK = "ok"
    ERROR = "error"
    DISAGREED = "disagreed"  # a shadow's answer, which nobody got
    OUTLIER = "outlier"  # answered, and unlike the rows that the version was built with


@dataclass(frozen=True, slots=True)
class PayloadEvent:
    """A request of n rows, or one record, with its answer. Fields to be redacted are gone already.

    `inputs` and `outputs` have n rows each; there are no outputs where there was an error, of which `error` is the kind: never
    its text, never a value. `versions` says of each row who answered, int32 [n]. `weight` is how many such predictions this one
    stands for. `at_s` is Unix time; `request_id` the caller's own, `label_keys` are a row's each.
    """

    id: str
    at_s: float
    way: ScoringWay
    model: str
    version: int
    outcome: PayloadOutcome
    weight: float
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array] | None
    versions: npt.NDArray[np.int32]
    error: str = ""
    request_id: str = ""
    trace_id: str = ""
    label_keys: Sequence[str] = field(default=())

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.versions)

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        tensors = [*self.inputs.values(), *(self.outputs or {}).values()]
        return 512 + sum(map(_size_bytes, tensors)) + sum(map(len, self.label_keys))


def _size_bytes(tensor: Array) -> int:
    if tensor.dtype != np.object_:
        return tensor.nbytes
    return tensor.nbytes + sum(len(item) + 33 for item in tensor.ravel().tolist())
