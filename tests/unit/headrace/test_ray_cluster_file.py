"""ray-cluster.yaml: what Ray's own validation says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[3] / "ray-cluster.yaml"


def read() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return config


def test_rays_own_validation_accepts_it() -> None:
    validate_config(prepare_config(read()))


def test_rays_own_validation_would_refuse_a_mistake() -> None:
    with pytest.raises(ValidationError, match="max_workrs"):
        validate_config(prepare_config({**read(), "max_workrs": 1}))


def test_it_has_a_head_cpu_workers_and_gpu_workers_within_bounds() -> None:
    config = read()
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert set(types) == {"head", "cpu-worker", "gpu-worker"}
    workers = [types["cpu-worker"], types["gpu-worker"]]
    assert all(0 <= worker["min_workers"] <= worker["max_workers"] for worker in workers)
    assert sum(worker["max_workers"] for worker in workers) <= config["max_workers"]


def test_nothing_listens_for_the_dashboard_beyond_loopback() -> None:
    assert "--dashboard-host=127.0.0.1" in " ".join(read()["head_start_ray_commands"])


def test_ray_takes_nothing_without_the_token_that_every_machine_gets() -> None:
    config = read()
    assert "~/.ray/auth_token" in config["file_mounts"]
    started = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    begun = [command for command in started if "ray start" in command or "headrace up" in command]
    assert len(begun) == 3
    assert all("RAY_AUTH_MODE=token" in command for command in begun)
