"""A version that sleeps, for `bench.nodes`: each call of its engine takes so long, and next to no core.

So one machine's cores are no bound, and what is measured is how calls are spread over nodes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from deployments.engines.datatypes import Array
from deployments.serving import worker_setup

SLEEP_S = 0.1  # as in `bench.nodes`, which must not import what imports Ray


def set_up() -> None:
    """Called by Ray's workers as they start, in place of our own set-up, which it calls first."""
    worker_setup.set_up()
    from deployments.engines.onnx import OnnxEngine

    score = OnnxEngine.score

    def slowly(self: OnnxEngine, tensors: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(SLEEP_S)
        return score(self, tensors)

    OnnxEngine.score = slowly  # type: ignore[method-assign]
