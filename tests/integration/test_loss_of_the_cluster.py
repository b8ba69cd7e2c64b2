"""The whole Ray is killed in the middle of a rollout: after `headrace up` all is as it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.models import ModelView
from headrace.client import ControlClient
from headrace.local.home_key import home_key
from headrace.local.run_state import RAYLET
from tests.integration.test_up_and_down import Machine
from tests.support.live import Service
from tests.support.models import mlp_artifact

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]
MODEL = "digits"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 1}}
PLAN: dict[str, Any] = {"steps": [{"weight": 10, "bake_s": 86_400}, {"weight": 100}], "deadline_s": 86_400}


def replicas(model: ModelView) -> dict[str, tuple[int, int]]:
    """Running and wanted replicas by app."""
    return {app.app: (app.replicas, app.target_replicas) for app in model.apps}


def test_versions_stable_scale_and_rollout_come_back(machine: Machine, tmp_path: Path) -> None:
    machine.up()
    url = machine.state().addresses.http
    assert url is not None
    with ControlClient(url, timeout_s=60.0, token=home_key(machine.home)) as control:
        service = Service(MODEL, url, control)
        service.apply(SERVING, PLAN)
        service.register(mlp_artifact(tmp_path, MODEL))
        assert service.ended(1).state == "promoted"
        control.scale(MODEL, 2)
        service.seen(lambda _: replicas(control.model(MODEL)) == {"digits--v1": (2, 2)})
        service.register(mlp_artifact(tmp_path, MODEL, nudge=0.1))
        service.seen(lambda rollout: rollout.state == "canary")
        control.pause_rollout(MODEL)
        before = control.model(MODEL)

        os.kill(machine.pid_of(RAYLET), signal.SIGKILL)
        assert machine.up()["started"] is True

        service.seen(lambda _: replicas(control.model(MODEL)) == {"digits--v1": (2, 2), "digits--v2": (2, 2)})
        after = control.model(MODEL)
        assert (after.stable, after.candidate, after.versions) == (1, 2, before.versions)
        assert before.rollout is not None
        assert after.rollout is not None
        assert after.rollout.model_copy(update={"checks": before.rollout.checks}) == before.rollout
        assert control.resume_rollout(MODEL).state == "canary"
