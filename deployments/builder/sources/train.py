"""Worker: runs the user's own training function; what it prints is the build's log."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
import time
from typing import Any

import numpy as np

from cluster.errors import BadInput
from deployments.builder.worker import serve


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: function (module:function), code, args, seed. Answers with the losses by epoch and how long it took."""
    module_name, _, name = job["function"].partition(":")
    sys.path.insert(0, job["code"])
    try:
        function = getattr(importlib.import_module(module_name), name)
        takes = inspect.signature(function).parameters
    except (ImportError, AttributeError, TypeError) as error:
        raise BadInput(
            f"can't import {job['function']}: {error}",
            where="train",
            remedy="set function to module:function, and code to its folder",
        ) from error
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    arguments = job["args"] | ({"seed": job["seed"]} if "seed" in takes else {})
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise BadInput(f"{job['function']}: {error}", where="train.args", remedy="set args as the function takes them") from error
    started_s = time.monotonic()
    found = function(**arguments)
    losses = [float(loss) for loss in found] if isinstance(found, list | tuple) else []
    return {"losses": losses, "took_s": round(time.monotonic() - started_s, 1)}


if __name__ == "__main__":
    serve(step)
