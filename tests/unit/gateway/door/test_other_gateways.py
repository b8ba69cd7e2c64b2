"""Gateways behind one door, asked for statistics: whoever answers tells of all."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.door import other_gateways
from deployments.gateway.door.other_gateways import OtherGateways
from deployments.gateway.door.slots import SLOTS, take_slot
from deployments.gateway.http.callers import Callers
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer, ServerLimits
from deployments.gateway.statistics import Statistics, added
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, table

LIMITS = ServerLimits(max_requests=100, max_body_bytes=1 << 20, max_message_bytes=1 << 20, max_buffered_bytes=64 << 20)
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
pytestmark = pytest.mark.anyio


@pytest.fixture
def folder() -> Any:
    with tempfile.TemporaryDirectory() as made:  # a socket's path must be short
        yield Path(made)


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[int]:
    """One that listens in a slot of the folder; its number."""
    slot, scorer = take_slot(folder), FakeScorer(table())
    control = FakeControl(scorer.table)
    plane = DataPlane(scorer, PATIENT, OtherGateways(folder, slot.number, SLOTS))
    server = GatewayServer(
        plane, Repository(scorer, control), control, Guard(scorer, visitors=True), "0", Callers.to("gateway"), LIMITS
    )
    await server.start(slot)
    try:
        yield slot.number
    finally:
        await server.stop(0)
        slot.release()


async def asked(path: Path, head: str, body: bytes = b"") -> tuple[int, Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    status, _, told = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(status.split()[1]), json.loads(told)


async def scored(folder: Path, number: int, path: str, times: int) -> None:
    for _ in range(times):
        assert (await asked(folder / f"{number}.infer", f"POST {path}/infer", BODY))[0] == 200


async def counts(folder: Path, number: int, path: str) -> dict[str, int]:
    """Rows by version."""
    status, told = await asked(folder / f"{number}.http", f"GET {path}/stats")
    assert status == 200
    return {one["version"]: one["inference_count"] for one in told["model_stats"] if one["inference_count"]}


async def test_each_gateway_tells_what_all_have_scored(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(gateway(folder)) for _ in range(3)]
        await scored(folder, first, "/v2/models/pair/versions/2", 2)
        await scored(folder, second, "/v2/models/pair/versions/2", 3)
        await scored(folder, second, "/v2/models/pair/versions/3", 1)
        for number in (first, second, third):
            for path in ("/v2/models", "/v2/models/pair"):
                assert await counts(folder, number, path) == {"2": 5, "3": 1}
            assert await counts(folder, number, "/v2/models/pair/versions/3") == {"3": 1}
        assert (await asked(folder / f"{first}.http", "GET /v2/models/none/stats"))[0] == 404


async def test_one_that_has_ended_or_stands_still_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(other_gateways, "ANSWERS_WITHIN_S", 0.1)
    async with gateway(folder) as first:
        async with gateway(folder) as second:
            await scored(folder, second, "/v2/models/pair", 1)
        await scored(folder, first, "/v2/models/pair", 1)
        with caplog.at_level(logging.WARNING):
            assert sum((await counts(folder, first, "/v2/models")).values()) == 1
            assert caplog.records == []
            stands_still = take_slot(folder)  # it listens, and nobody answers
            assert sum((await counts(folder, first, "/v2/models")).values()) == 1
            stands_still.release()
        assert f"slot {stands_still.number} does not tell" in caplog.text


def described(version: int, requests: int, last_ms: int) -> Mapping[str, Any]:
    statistics = Statistics()
    statistics.scored("m", version, requests=requests, rows=2 * requests, wait_s=0.25, call_s=0.5)
    statistics.failed("m", version, 0.125)
    return statistics.describe("m", version) | {"last_inference": last_ms}


async def test_counts_and_times_are_sums_and_the_last_is_the_last() -> None:
    (one, other) = added(
        [described(1, 1, 10), described(2, 1, 5)], [described(1, 2, 30), described(1, 3, 20), described(9, 1, 99)]
    )
    assert (one["version"], one["inference_count"], one["execution_count"], one["last_inference"]) == ("1", 12, 3, 30)
    assert one["inference_stats"]["success"] == {"count": 6, "ns": 3_750_000_000}
    assert one["inference_stats"]["fail"] == {"count": 3, "ns": 375_000_000}
    assert other == described(2, 1, 5)
