"""Batch runs in processes of their own, which tests kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from consumers.batch.spec import BatchSpec
from consumers.batch.write.records import Pinned

DRIVER = """
import sys, json
import ray
from consumers.batch.write.records import Pinned
from consumers.batch.score.pool import ray_workforce
from consumers.batch.run import begin, resume
from consumers.batch.spec import BatchSpec

address, what, spec, pin = sys.argv[1:]
ray.init(address=address, namespace="headrace", log_to_driver=False, logging_level="ERROR")
watch = lambda progress: print(json.dumps(progress.units_done), flush=True)
if what == "begin":
    pinned = Pinned.model_validate_json(pin)
    begin("digits", BatchSpec.model_validate_json(spec), pinned, ray_workforce(), as_of=None, fresh=False, watch=watch)
else:
    resume("digits", BatchSpec.model_validate_json(spec).output.path, ray_workforce(), watch=watch)
"""


def driver(address: str, what: str, spec: BatchSpec, pin: Pinned) -> subprocess.Popen[str]:
    """Another process that runs the batch; prints how many units are done as they end."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, address, what, spec.model_dump_json(), pin.model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def workers() -> list[psutil.Process]:
    """The processes of this run's cluster that score units."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name().startswith("ray::Map") or any(part.startswith("ray::Map") for part in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue  # it has just ended
    return found
