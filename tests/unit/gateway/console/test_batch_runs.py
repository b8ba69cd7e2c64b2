"""What a page may ask of batches' runs and of versions: who may, and how often anything is read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.access.callers import EVERYTHING, Caller, Role, grant_of
from cluster.audit.uses import Used, UseKind
from cluster.errors import BadArtifact, Forbidden, NotFound, Unauthenticated
from deployments.gateway.console.batch_runs import BatchRuns, BatchRunSeen, Quarantine, QuarantineReason
from deployments.gateway.console.node_loads import GpuLoad, NodeLoad, loads_of
from deployments.gateway.console.nodes import nodes_in
from deployments.gateway.console.version_about import share_interval
from deployments.gateway.console.version_pages import VersionPages, without
from deployments.observe.use_log import UseLog
from tests.support.gateway_fakes import FakeControl, table
from tests.support.models import mlp_artifact

ALL = Caller("ann", grants=EVERYTHING)
VIEWER = Caller("viewer", grants=(grant_of((Role.VIEW,), "digits"),))
NOBODY = Caller("anybody", grants=(grant_of((Role.VIEW,), "*"),), anonymous=True)


class Ledgers:
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.looks = 0
        self.redact: frozenset[str] = frozenset()

    def runs(self, spec: Mapping[str, Any]) -> tuple[BatchRunSeen, ...]:
        self.looks += 1
        return (BatchRunSeen("r1", 1, "running", True, None, "", 0.0, None, 4, 1, 400, 100, 2, 50.0, 6.0),)

    def quarantine(self, spec: Mapping[str, Any], run_id: str, redact: frozenset[str]) -> Quarantine:
        self.redact = redact
        return Quarantine(rows=7, looked_at=7, reasons=(QuarantineReason("NaN", 7, ({"x": "1"}, {"x": "2"})),))


class Control(FakeControl):
    """One batch, of `digits`, and one version at that place, which is not stable."""

    def __init__(self, artifact: tuple[str, str] = ("", "")) -> None:
        super().__init__(table())
        self.artifact = artifact

    async def call(self, command: str, payload: dict[str, Any], caller: Caller | None = None) -> dict[str, Any]:
        if command == "feed.show":
            return {"model": "digits", "spec": {}}
        if command == "model.show":
            return {"versions": [{"version": 1}]}
        if payload.get("version") is None:
            raise NotFound("it has no stable version yet")
        uri, digest = self.artifact
        return {"artifact_uri": uri, "digest": digest, "payloads": {"redact": ["image"]}}


def test_all_who_look_share_one_look_and_rows_are_for_operators() -> None:
    ledgers = Ledgers()
    uses = UseLog("gateway")
    runs = BatchRuns(Control(), lambda: ledgers, uses)

    async def scene() -> None:
        told = await asyncio.gather(*(runs.runs("nightly", VIEWER) for _ in range(5)))
        assert told[0]["runs"][0]["units_done"] == 1
        assert ledgers.looks == 1
        for caller, refusal in ((VIEWER, Forbidden), (NOBODY, Unauthenticated)):
            with pytest.raises(refusal, match="role operate"):
                await runs.quarantine("nightly", "r1", caller)
        assert (await runs.quarantine("nightly", "r1", ALL))["rows"] == 7
        uses.end()
        report = uses.next_report()
        assert report is not None
        (look,) = report.uses.items()  # who may not has seen nothing
        assert look == (UseKind(ALL.name, "digits", "", "console", "", what="quarantine of batch nightly, run r1"), Used(1, 2))
        assert ledgers.redact == {"image"}
        with pytest.raises(NotFound):
            await BatchRuns(Control(), None).runs("nightly", ALL)

    asyncio.run(scene())


def test_ledgers_that_could_not_be_made_are_made_when_they_are_asked_for_again() -> None:
    tries = iter([MemoryError("no room for pyarrow"), None])

    def make() -> Ledgers:
        if (failed := next(tries)) is not None:
            raise failed
        return Ledgers()

    runs = BatchRuns(Control(), make)

    async def scene() -> None:
        with pytest.raises(MemoryError):
            await runs.runs("nightly", ALL)
        assert (await runs.runs("nightly", ALL))["runs"][0]["run_id"] == "r1"

    asyncio.run(scene())


def test_a_version_is_read_once_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path)
    control = Control((uri, "0" * 64))
    files = VersionPages(control)

    async def scene() -> None:
        with pytest.raises(BadArtifact):
            await files.about("digits", "1", ALL)
        for odd in ("one", "9" * 5000, "\u0663"):
            with pytest.raises(NotFound, match="no version"):
                await files.about("digits", odd, ALL)
        control.artifact = uri, digest
        told = await files.about("digits", "1", ALL)
        assert (told["engine"], told["variants"], told["profile"]) == ("onnx", [], None)
        assert told["size_bytes"] > 0
        assert await files.about("digits", "1", ALL) is told

    asyncio.run(scene())


def test_a_profile_tells_nothing_of_what_is_redacted() -> None:
    tensors = [{"name": name, "shown": [{"name": name, "top": [["Ann Li", 3]]}]} for name in ("image", "name", "scores")]
    about = {"engine": "onnx", "profile": {"rows": 9, "tensors": tensors}}
    told = without(about, ["name", "scores", "elsewhere"])
    assert [tensor["name"] for tensor in told["profile"]["tensors"]] == ["image"]
    assert told["profile"]["kept_back"] == ["name", "scores"]
    assert (about["profile"]["tensors"], without(about, ())) == (tensors, about)


@pytest.mark.parametrize(("share", "rows"), [(0.9, 100), (1.0, 30), (0.0, 30), (0.5, 1)])
def test_an_interval_holds_as_often_as_it_says(share: float, rows: int) -> None:
    low, high = share_interval(share, rows)
    assert 0 <= low <= share <= high <= 1
    # Wilson's: the bounds are the shares that are 1.96 standard errors from what was seen.
    for bound in {low, high} - {0.0, 1.0}:
        assert abs(share - bound) == pytest.approx(1.96 * np.sqrt(bound * (1 - bound) / rows), rel=1e-3)
    assert share_interval(0.3, 0) == (0.0, 1.0)


def test_a_node_that_was_asked_to_go_is_no_node_that_died() -> None:
    def row(node: str, *, alive: bool = False, **more: object) -> dict[str, object]:
        return {"NodeID": node, "Alive": alive, "NodeManagerAddress": "10.0.0.1", **more}

    asked = [row(f"left{reason}", DeathReason=reason) for reason in (1, 3, 4)]
    rows = [row("here", alive=True, DeathReason=0), *asked, row("lost", DeathReason=2), row("unknown")]
    assert [(node.id, node.alive) for node in nodes_in(rows, {})] == [("here", True), ("lost", False), ("unknown", False)]


def test_loads_are_those_of_the_nodes_that_are_measured() -> None:
    measured = {"raylet": {"nodeId": "a1"}, "cpu": 37.4, "mem": [1 << 34, 0, 0, (1 << 33) + 5], "gpus": []}
    with_gpu = {"raylet": {"nodeId": "b2"}, "cpu": 5, "mem": [1 << 34, 0, 0, 1 << 33]}
    with_gpu["gpus"] = [{"name": "H200", "utilizationGpu": 83, "memoryUsed": 1024, "memoryTotal": 2048}]
    gone = {"raylet": {"nodeId": "c3"}}
    found = loads_of({"data": {"summary": [measured, with_gpu, gone]}})
    assert found == {
        "a1": NodeLoad(0.37, float(1 << 33), float(1 << 34)),
        "b2": NodeLoad(0.05, float(1 << 33), float(1 << 34), (GpuLoad("H200", 0.83, float(1 << 30), float(1 << 31)),)),
    }
