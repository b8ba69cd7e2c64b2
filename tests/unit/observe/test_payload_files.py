"""Payloads as Parquet: whole files by version and minute, which a batch scores again, and a replay puts to another version."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from cluster.errors import BadInput, EngineFailure, NoCapacity, NotFound
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.watch.payloads import PayloadFiles
from consumers.payload_replay.recorded import payload_files, recorded
from consumers.payload_replay.replay import ReplaySpeed, replay
from deployments.artifacts.places import Place
from deployments.engines.datatypes import Array
from deployments.observe.payloads.event import PayloadOutcome
from deployments.observe.payloads.parquet_files import ParquetPayloads
from tests.support.batch_parts import echo, echo_pin
from tests.support.payloads import payload_event
from tests.support.small_disk import mounted

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3)),),
    outputs=(TensorSpec(name="sum", datatype=Datatype.FP32, shape=(-1,)),),
)


class Summing:
    """An engine that adds up, 1 too much for rows of 2, and fails for 7."""

    signature = SIGNATURE

    def score(self, tensors: dict[str, Array]) -> dict[str, Array]:
        x = np.asarray(tensors["x"], np.float32)
        if (x == 7).any():
            raise EngineFailure("7")
        return {"sum": x.sum(axis=1) + (x[:, 0] == 2)}


def write(folder: Path, *numbers: int) -> None:
    events = [payload_event(n, failed=n == 5) for n in numbers]
    assert ParquetPayloads(PayloadFiles(path=str(folder))).write(events).error is None


def test_files_go_by_version_and_minute(tmp_path: Path) -> None:
    first = replace(payload_event(1), at_s=60.0 * 29_000_000)
    sink = ParquetPayloads(PayloadFiles(path=str(tmp_path)))
    later = replace(first, id="b", at_s=first.at_s + 60)
    sink.write([first, replace(first, id="a", at_s=first.at_s + 59), later, payload_event(2, version=9)])
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*"))
    assert [name[: name.rindex("-")] for name in files if name.endswith(".parquet")] == [
        "digits/version-3/20250219T2120Z",
        "digits/version-3/20250219T2121Z",
        f"digits/version-9/{time.strftime('%Y%m%dT%H%MZ', time.gmtime())}",
    ]
    table = pq.read_table(next((tmp_path / "digits" / "version-3").glob("*2120Z*")))
    assert table["x"].to_pylist() == [[1.0] * 3] * 4
    assert table["headrace_output_sum"].to_pylist() == [3.0] * 4
    assert table["headrace_weight"].to_pylist() == [100.0] * 4
    assert not [name for name in files if "/." in name]


def test_a_batch_scores_them_again(tmp_path: Path) -> None:
    write(tmp_path / "log", 1, 2, 5)
    columns = {"y": "y"}
    echo(
        tmp_path / "log",
        tmp_path / "out",
        echo_pin(Datatype.FP32, 3),
        input={"passthrough": ["headrace_id"]},
        output={"columns": columns},
    )
    table = pq.read_table(tmp_path / "out").sort_by("headrace_id")
    assert table["headrace_id"].to_pylist() == ["in/0/1", "in/0/1", "in/0/2", "in/0/2", "in/0/5", "in/0/5"]
    assert [row[0] for row in table["y"].to_pylist()] == [1, 1, 2, 2, 5, 5]


def test_a_replay_compares_and_counts(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 5, 7)
    sink = ParquetPayloads(PayloadFiles(path=str(tmp_path)))
    sink.write([replace(payload_event(3), outcome=PayloadOutcome.DISAGREED), payload_event(4, model="other")])
    requests = [one for file in payload_files(str(tmp_path)) for one in recorded(file, "digits", SIGNATURE)]
    outcome = replay(requests, Summing(), "digits", 4)
    assert (outcome.requests, outcome.rows) == (4, 8)
    assert (outcome.same, outcome.different, outcome.errors, outcome.answered_errors) == (2, 2, 2, 2)
    assert outcome.reasons == {EngineFailure("").kind: 2}
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.max_ms
    assert replay(requests, Summing(), "digits", 4, tolerance=1.5).different == 0


def test_a_replay_at_the_recorded_speed_waits(tmp_path: Path) -> None:
    sink = ParquetPayloads(PayloadFiles(path=str(tmp_path)))
    first = payload_event(1)
    sink.write([first, replace(first, id="b", at_s=first.at_s + 30)])
    requests = [one for file in payload_files(str(tmp_path)) for one in recorded(file, "digits", SIGNATURE)]
    waits: list[float] = []
    replay(requests, Summing(), "digits", 4, speed=ReplaySpeed.RECORDED, wait=waits.append)
    assert waits == [pytest.approx(30, abs=1)]


def test_a_replay_has_so_many_requests_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 5, 7, 8, 9)
    requests = [one for file in payload_files(str(tmp_path)) for one in recorded(file, "digits", SIGNATURE)]
    three = threading.Barrier(3, timeout=20)

    class Meeting(Summing):
        def score(self, tensors: dict[str, Array]) -> dict[str, Array]:
            three.wait()
            return super().score(tensors)

    outcome = replay(requests, Meeting(), "digits", 4, concurrency=3)
    assert (outcome.requests, outcome.same, outcome.different, outcome.errors, outcome.answered_errors) == (6, 6, 2, 2, 2)


def test_what_is_no_payload_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no Parquet file"):
        payload_files(str(tmp_path))
    write(tmp_path, 1)
    (file,) = payload_files(str(tmp_path))
    other = SIGNATURE.model_copy(update={"inputs": (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3)),)})
    with pytest.raises(BadInput, match="no input y"):
        list(recorded(file, "digits", other))
    wider = SIGNATURE.model_copy(update={"inputs": (TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 5)),)})
    with pytest.raises(BadInput, match="6 values in 2 rows"):
        list(recorded(file, "digits", wider))
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(BadInput, match="no Parquet file"):
        list(recorded(Place(pafs.LocalFileSystem(), str(tmp_path / "no.parquet")), "digits", SIGNATURE))


def test_a_full_disk_costs_what_does_not_fit_and_leaves_no_half_file(tmp_path: Path) -> None:
    with mounted(tmp_path, "256k") as disk:
        sink = ParquetPayloads(PayloadFiles(path=str(disk)))
        noise = np.random.default_rng(0).random((200_000, 3), np.float32)
        large = replace(payload_event(1, version=1), inputs={"x": noise}, outputs=None, versions=np.ones(len(noise), np.int32))
        result = sink.write([replace(large, label_keys=()), payload_event(2, version=2)])
        assert result.kept == 1
        assert isinstance(result.error, NoCapacity)
        (left,) = disk.rglob("*.parquet")
        assert pq.read_table(left)["headrace_version"].to_pylist() == [2, 2]
