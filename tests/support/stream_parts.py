"""Stand-ins and shorthands for stream tests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from cluster.errors import HeadraceError
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import Array
from deployments.scoring.port import Scored

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3)),),
    outputs=(TensorSpec(name="sum", datatype=Datatype.FP32, shape=(-1, 1)),),
)


@dataclass
class SumScoring:
    """Adds up each row, on a thread of its own. `fail` may raise for a whole call, `row_errors` names rows at fault."""

    fail: Callable[[], None] = lambda: None
    row_errors: Callable[[Array], Mapping[int, HeadraceError]] = lambda _: {}
    keys: list[bytes | None] | deque[bytes | None] = field(default_factory=list)
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        donated: bool = False,
        outliers: bool = False,
    ) -> Future[Scored]:
        return self.executor.submit(self._score, tensors["x"], keys or ())

    def _score(self, rows: Array, keys: Sequence[bytes | None]) -> Scored:
        self.fail()
        with self.lock:
            self.keys += keys
        sums = np.asarray(rows, dtype=np.float32).sum(axis=1, keepdims=True)
        return Scored({"sum": sums}, np.full(len(sums), 1, dtype=np.int32), dict(self.row_errors(rows)))

    def signature(self, model: str, version: int | None = None) -> Signature:
        return SIGNATURE
