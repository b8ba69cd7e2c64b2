"""What the processes of Serve load, seen in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from deployments.serving import worker_setup

MODULES = ("deployments.serving.replica", "deployments.serving.fleet", "deployments.gateway.deployment")
HEAVY = ("pandas", "pyarrow", "torch", "onnxruntime", "sklearn", "scipy", "sqlalchemy", "httpx", "ray.data")
LOADED = f"""
import importlib, json, sys
from deployments.serving.worker_setup import set_up
set_up()
set_up()
import ray.serve
for module in {MODULES}:
    importlib.import_module(module)
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
import pandas
assert len(pandas.DataFrame({{"x": [1, 2]}})) == 2
"""


@pytest.mark.thorough
def test_neither_replica_nor_gateway_loads_what_it_may_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_a_module_run_through_it_sees_its_own_arguments() -> None:
    command = [sys.executable, "-m", "deployments.serving.worker_setup", "json.tool", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "json.tool" in done.stdout


def test_what_ray_is_told_to_call_is_there() -> None:
    module, _, name = worker_setup.SETUP.rpartition(".")
    assert getattr(sys.modules[module], name) is worker_setup.set_up
