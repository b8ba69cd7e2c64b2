"""What Ray is told of the scorer's figures."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from deployments.observe import ray_meter
from deployments.observe.ray_meter import RayMeter


class Instrument:
    """Notes what it is told, by version."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.seen: list[tuple[float, str]] = []

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.sums[tags["version"]] += int(value)

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self.seen.append((value, tags["version"]))


def test_ray_is_told_sums_and_each_calls_time_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, errors, fallback, seconds = (Instrument() for _ in range(4))
    told = ray_meter._Instruments(rows, errors, fallback, seconds)  # type: ignore[arg-type]
    monkeypatch.setattr(ray_meter, "_instruments", lambda: told)

    async def play() -> None:
        meter = RayMeter()
        for turn in (1, 2):
            meter.scored("m", 1, 10, 0, 0.1)
            meter.scored("m", 2, 4, 1, 0.2)
            meter.fell_back("m", 2, 1)
            assert len(seconds.seen) == 2 * (turn - 1)
            async with asyncio.timeout(10):
                while len(seconds.seen) < 2 * turn:
                    await asyncio.sleep(0.01)

    asyncio.run(play())
    assert rows.sums == {"1": 20, "2": 8}
    assert errors.sums == {"2": 2}
    assert fallback.sums == {"2": 2}
    assert sorted(seconds.seen) == [(0.1, "1")] * 2 + [(0.2, "2")] * 2
