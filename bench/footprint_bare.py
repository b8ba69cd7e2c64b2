"""The reference of `bench.footprint`: bare replicas of Serve. `python -m bench.footprint_bare RAY COUNT MODEL`."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
import ray
from ray import serve

APP = "bare"


class Bare:
    """An onnxruntime session of one thread, and nothing else."""

    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = self._session.get_inputs()[0]
        self._session.run(None, {given.name: np.zeros((1, *given.shape[1:]), np.float32)})

    def __call__(self) -> None:
        """What a deployment must have."""


def main(address: str, count: int, model: str) -> None:
    """Runs them until standard input ends."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    deployment = serve.deployment(name=APP, num_replicas=count, ray_actor_options={"num_cpus": 0.01})(Bare)
    serve.run(deployment.bind(model), name=APP, route_prefix=None)
    print("ready", flush=True)
    sys.stdin.read()
    serve.delete(APP)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
