"""`headrace down` while callers keep calling, with answers that take a while: what the gateway has taken is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.versions import RegisterVersion
from headrace.client import ControlClient
from headrace.local.home_key import home_key
from tests.support.last_calls import CALLERS, LIMIT_S, Callers, End, calling
from tests.support.machine import Machine
from tests.support.models import slow_artifact
from tests.support.waiting import until

MODELS = {"near": "embedded", "far": "remote"}
pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]


def serve_models(url: str, token: str | None, folder: Path) -> None:
    """Version 1 of each model serves, scored in the gateway and in a replica: 10 to 40 ms a call, and no two at a time."""
    with ControlClient(url, timeout_s=60.0, token=token) as control:
        for model, transport in MODELS.items():
            serving = {"transport": transport, "resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 1}}
            control.apply(Apply(models=(ModelDocument.model_validate({"name": model, "serving": serving}),)))
            uri, digest, made = slow_artifact(folder, model)
            control.register_version(
                RegisterVersion(model=model, artifact_uri=uri, digest=digest, engine=made.engine, signature=made.signature)
            )
        until(lambda: all(control.model(model).stable == 1 for model in MODELS), LIMIT_S)


def test_what_the_gateway_has_taken_is_answered(machine: Machine, tmp_path: Path) -> None:
    machine.up()
    where = machine.state().addresses
    assert where.http is not None
    assert where.grpc is not None
    serve_models(where.http, home_key(machine.home), tmp_path / "artifacts")
    callers = Callers(where.http.removeprefix("http://"), where.grpc)
    with calling(callers, MODELS):
        until(lambda: all(sum(call.end is End.ANSWERED for call in callers.at(door)) > 100 for door in CALLERS), LIMIT_S)
        ended = machine.answer("down")
    assert ended["drained"] is True
    assert callers.lost() == []
