"""Measuring ends in the time and memory that it may take, and says what it left out."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import BadArtifact, EngineFailure
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.builder.evaluation import measure
from deployments.builder.evaluation.gate import broken
from deployments.builder.page import page
from deployments.builder.report import Report, Speed, Variant
from deployments.builder.spec import Gate
from deployments.engines.arrays import save_arrays

X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))
SIGNATURE = Signature(inputs=(X,), outputs=(X,))


class Slow:
    """A model of 2 ms a row, one that dies at 64 rows, and one that needs 4 MB a row, by the name of its file."""

    signature = SIGNATURE

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def score(self, tensors: dict[str, Any]) -> dict[str, Any]:
        rows = len(tensors["x"])
        if self.kind == "slow":
            until = time.perf_counter() + 0.002 * rows
            while time.perf_counter() < until:
                pass
        if self.kind == "dies" and rows == 64:
            os._exit(9)
        if self.kind == "wide":
            try:
                np.empty((rows, 1_000_000), np.float32)[:16] = 1
            except MemoryError as error:
                raise EngineFailure("the model failed: std::bad_alloc") from error
        if self.kind == "fails" and rows > 1:
            raise EngineFailure("the model failed: one row at a time")
        return {"x": tensors["x"]}


@pytest.fixture(autouse=True)
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(_: str, file: Path, __: Signature) -> Slow:
        if file.name == "none":
            raise BadArtifact("no such model")
        return Slow(file.name)

    monkeypatch.setattr(measure, "open_engine", opened)


def measured(folder: Path, *kinds: str, seconds: float = 6.0, memory_bytes: int = 2**31) -> dict[str, Any]:
    save_arrays(folder / "rows.npz", {"x": np.ones((4, 2), np.float32)})
    return measure.step(
        {
            "engine": "onnx",
            "files": {kind: kind for kind in kinds},
            "signature": SIGNATURE.model_dump(mode="json"),
            "rows": str(folder / "rows.npz"),
            "seconds": seconds,
            "memory_bytes": memory_bytes,
        }
    )


@pytest.mark.thorough
def test_what_would_take_too_long_is_left_out_and_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()
    found = measured(tmp_path, "slow")
    assert time.monotonic() - started_s < 20
    assert set(found["speed"]["slow"]) == {"1", "64"}
    assert "a call takes about 2" in found["unmeasured"]["slow"]["1024"]
    assert found["speed"]["slow"]["64"]["p50_ms"] >= 128
    assert "measure 1 at batch 64" in capfd.readouterr().out


@pytest.mark.thorough
def test_a_batch_that_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    found = measured(tmp_path, "wide", seconds=3600.0, memory_bytes=10**9)
    assert set(found["speed"]["wide"]) == {"1", "64"}
    assert found["unmeasured"]["wide"] == {
        "1024": "it needs more than the 1000 MB that measuring may take (measure.memory_bytes)"
    }
    assert found["peak_bytes"]["wide"] > 50_000_000


def test_a_process_that_ends_ends_no_build(tmp_path: Path) -> None:
    found = measured(tmp_path, "quick", "dies", "fails")
    assert set(found["speed"]["quick"]) == {"1", "64", "1024"}
    assert set(found["speed"]["dies"]) == {"1"}
    assert "its process was ended (exit code 9)" in found["unmeasured"]["dies"]["64"]
    assert found["unmeasured"]["fails"] == dict.fromkeys(("64", "1024"), "the model failed: one row at a time")


def test_the_report_and_the_gate_bear_what_was_not_measured() -> None:
    speed = {"1": Speed(rows_per_s=1, p50_ms=1, p99_ms=1, speedup=1)}
    variant = Variant(name="imported", speed=speed, unmeasured={"64": "too <slow>"})
    report = Report(
        model="m",
        task="regression",
        source={},
        parity=0,
        data={"rows": 1},
        variants=(variant,),
        chosen=None,
        machine={},
        took_s=1,
    )
    assert "<svg" not in page(report)
    assert broken(Gate(max_p99_ms=2.0), variant, variant) == ()
    unknown = Variant(name="imported", unmeasured={"1": "too slow"})
    assert broken(Gate(max_p99_ms=2.0), unknown, unknown) == ("its p99 at batch 1 is not known, as max_p99_ms asks: too slow",)
