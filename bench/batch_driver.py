"""One batch run in a process of its own, as the command line does it.

`python -m bench.batch_driver ADDRESS SPEC PINNED [SLEEP_S]`

Prints one JSON line: when the first row was begun and when the result was published (Unix time), and the rows written.
With SLEEP_S the model is a pause of that many seconds for each unit, and the workers begin together.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import ray

from bench.sleeping import NodeTurns
from consumers.batch.run import begin
from consumers.batch.score.pool import UnitActor, ray_workforce
from consumers.batch.score.rowscorer import RowScorer
from consumers.batch.spec import BatchSpec
from consumers.batch.write.records import Pinned, RunRecord
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from deployments.engines.datatypes import Array

_GLANCE_S = 0.01


class Sleeper:
    """A model of a fixed cost, so that the number of cores does not matter: one unit at a time on a node."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s, self._turns = pause_s, NodeTurns()

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:  # noqa: ARG002 - the port's
        """See RowScorer."""
        self._turns.sleep(self._pause_s)
        return {"p": np.zeros((rows, 2), np.float32)}, {}


class SleepingActor(UnitActor):
    """Waits until every worker is up: to start eight processes on two cores takes longer than what they are to do."""

    pause_s = 0.0

    @classmethod
    def scorer(cls, record: RunRecord) -> RowScorer:
        """See UnitActor."""
        met = Path(f"{record.spec.output.path}.met")
        met.mkdir(exist_ok=True)
        (met / ray.get_runtime_context().get_actor_id()).touch()
        while len(list(met.iterdir())) < record.spec.workers.min:
            time.sleep(_GLANCE_S)
        return Sleeper(cls.pause_s)


def main() -> None:
    address, spec_json, pinned_json, *pause = sys.argv[1:]
    ray.init(address=address, namespace="headrace", log_to_driver=False, logging_level="ERROR")
    spec = BatchSpec.model_validate_json(spec_json)
    worker: type[UnitActor] = UnitActor
    if pause:
        worker = type("Sleeping", (SleepingActor,), {"pause_s": float(pause[0])})
    start = functools.partial(begin, "bench", spec, Pinned.model_validate_json(pinned_json), ray_workforce(worker))
    manifest = start(as_of=None, fresh=True, watch=lambda _progress: None)
    told: dict[str, Any] = {
        "published_s": time.time(),
        "first_s": min(receipt.started_s for receipt in RunHistory(locate(spec.output.path)).all()[-1].receipts()),
        "written": manifest.written,
    }
    print(orjson.dumps(told).decode())


if __name__ == "__main__":
    main()
