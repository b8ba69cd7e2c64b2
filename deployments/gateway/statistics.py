"""What gateways have scored since they started, version by version, as the protocol's statistics call tells it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Tally:
    """Of one version. A call scores the rows of all requests that were waiting; times are summed over requests."""

    requests: int = 0
    rows: int = 0
    calls: int = 0
    wait_s: float = 0.0
    call_s: float = 0.0
    failed: int = 0
    failed_s: float = 0.0
    last_ms: int = 0


class Statistics:
    """One gateway's counts, by (model, version). Used from one event loop."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def scored(self, model: str, version: int, *, requests: int, rows: int, wait_s: float, call_s: float) -> None:
        """One call of `call_s` seconds answered so many requests, which had waited for `wait_s` seconds in all."""
        tally = self._of(model, version)
        tally.requests += requests
        tally.rows += rows
        tally.calls += 1
        tally.wait_s += wait_s
        tally.call_s += requests * call_s
        tally.last_ms = time.time_ns() // 1_000_000

    def failed(self, model: str, version: int, seconds: float) -> None:
        """One request was answered with an error after so many seconds."""
        tally = self._of(model, version)
        tally.failed += 1
        tally.failed_s += seconds

    def describe(self, model: str, version: int) -> dict[str, Any]:
        """One `ModelStatistics` of the protocol, in its JSON form."""
        tally = self._tallies.get((model, version), _Tally())
        done = tally.requests
        return {
            "name": model,
            "version": str(version),
            "last_inference": tally.last_ms,
            "inference_count": tally.rows,
            "execution_count": tally.calls,
            "inference_stats": {
                "success": _duration(done, tally.wait_s + tally.call_s),
                "fail": _duration(tally.failed, tally.failed_s),
                "queue": _duration(done, tally.wait_s),
                "compute_input": _duration(done, 0.0),
                "compute_infer": _duration(done, tally.call_s),
                "compute_output": _duration(done, 0.0),
            },
        }

    def _of(self, model: str, version: int) -> _Tally:
        found = self._tallies.get((model, version))
        if found is None:
            found = self._tallies[model, version] = _Tally()
        return found


def added(own: Sequence[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What several gateways have counted: of the versions that stand in `own`, in its order, the sums. Pure."""
    by_version: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in others:
        by_version.setdefault((one["name"], one["version"]), []).append(one)
    return [_sum([one, *by_version.get((one["name"], one["version"]), ())]) for one in own]


def _sum(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = parts[0]
    return {
        "name": first["name"],
        "version": first["version"],
        "last_inference": max(part["last_inference"] for part in parts),
        **{name: sum(part[name] for part in parts) for name in ("inference_count", "execution_count")},
        "inference_stats": {
            what: {unit: sum(part["inference_stats"][what][unit] for part in parts) for unit in duration}
            for what, duration in first["inference_stats"].items()
        },
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
