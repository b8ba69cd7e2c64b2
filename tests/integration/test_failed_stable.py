"""A stable version whose artifact is away as the cluster comes back: it serves again by itself once the artifact is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import serve

from cluster.commands.models import AppView
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.live import running
from tests.support.models import mlp_artifact
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MODEL = "comes-back"
APP = f"{MODEL}--v1"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}


def test_an_artifact_that_was_away_at_a_restart_is_tried_until_it_is_back(ray_cluster: RayCluster, tmp_path: Path) -> None:
    with running(ray_cluster, read_settings({"HEADRACE_HOME": str(tmp_path / "home")}), MODEL) as service:
        artifact = mlp_artifact(tmp_path, MODEL)
        service.register(artifact)
        service.apply(SERVING, {})
        assert service.ended(1).state == "promoted"
        folder, away = Path(artifact[0].removeprefix("file://")), tmp_path / "away"
        folder.rename(away)
        serve.delete(APP)

        def app() -> AppView | None:
            return next(iter(service.control.model(MODEL).apps), None)

        def has_failed(times: str) -> bool:
            seen = app()
            return seen is not None and seen.status == "failed" and f"failed {times}" in seen.message

        until(lambda: has_failed("once"), 240)
        told = app()
        assert told is not None
        assert told.next_try_s is not None
        assert "is tried again in" in told.message
        until(lambda: has_failed("2 times"), 240)
        away.rename(folder)
        until(lambda: (seen := app()) is not None and (seen.status, seen.message) == ("ready", ""), 240)
        assert service.version_of([b"a key"]) == {b"a key": 1}
