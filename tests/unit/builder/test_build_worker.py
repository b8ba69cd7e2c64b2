"""A build step that refuses what it got says where that came from, in the build's log; values are for who asks for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import BadInput
from deployments.builder.worker import run_worker, serve

VALUE = "Ada"


def users_code(_: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"x": float(VALUE)}
    except ValueError as error:
        raise BadInput("the network fails on the rows: ValueError", where="network.py", remedy="check it") from error


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_trace_of_what_failed_goes_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: str) -> None:
    question, answer, log = tmp_path / "job.json", tmp_path / "answer.json", tmp_path / "logs/build.log"
    question.write_text("{}")
    monkeypatch.setenv("HEADRACE_DEBUG", debug)
    monkeypatch.setattr(sys, "argv", ["worker", str(question), str(answer)])
    serve(users_code)
    assert VALUE not in json.dumps(json.loads(answer.read_text())["error"])
    step = tmp_path / "python"  # answers as the step did
    step.write_text(f'#!/bin/sh\ncp {answer} "$5"\n')
    step.chmod(0o700)
    with pytest.raises(BadInput, match="fails on the rows") as raised:
        run_worker("steps.prune", {}, what="pruning", log=log, python=str(step))
    told = log.read_text()
    assert "in users_code" in told
    assert (f"could not convert string to float: '{VALUE}'" in told) is (debug == "1")
    assert raised.value.__notes__ == [told]
    assert VALUE not in str(raised.value)
