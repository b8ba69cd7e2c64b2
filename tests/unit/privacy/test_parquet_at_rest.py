"""Outputs, quarantine and payload logs that are encrypted for a key: read with it as ever, and by nobody without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import Forbidden, NotFound
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.watch.payloads import PayloadFiles
from consumers.batch.run import begin
from consumers.batch.write.publish import _rows_of
from consumers.batch.write.records import OutputFile
from consumers.batch.write.runs import RunHistory
from consumers.payload_replay.recorded import payload_files, recorded
from deployments.artifacts.places import locate
from deployments.keys.ring import VARIABLE
from deployments.observe.payloads.parquet_files import ParquetPayloads
from deployments.privacy import parquet
from deployments.privacy.parquet import decryption, encryption_of
from tests.support.batch_parts import ECHO, echo, echo_pin, echo_spec_of
from tests.support.payloads import payload_event

pytestmark = pytest.mark.usefixtures("keys")

MARK = "Ada-Marked-of-Kent"


def files_below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*.parquet") if file.is_file()]


def write_rows(file: Path) -> None:
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": pa.array([1.0, None, 3.0], pa.float32()), "who": [MARK] * 3}), file)


def test_a_batch_and_its_quarantine(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "in/a.parquet")
    out = {"encrypt": "prod", "columns": {"y": "y"}}
    echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["who"]}, output=out)
    written = [*files_below(tmp_path / "out"), *files_below(tmp_path / "out.quarantine")]
    assert len(written) == 2
    for file in written:
        data = file.read_bytes()
        assert data[:4] == data[-4:] == b"PARE"
        assert MARK.encode() not in data
        with pytest.raises(OSError, match="no decryption found"):
            pq.read_table(file)
    rows, bad = (pq.ParquetFile(file, decryption_properties=decryption()).read() for file in written)
    assert (rows["y"].to_pylist(), rows["who"].to_pylist()) == ([1.0, 3.0], [MARK, MARK])
    assert (bad["_reason"].to_pylist(), bad["who"].to_pylist()) == (["column x is null"], [MARK])
    # What is encrypted is another batch's input as it is.
    echo(tmp_path / "out", tmp_path / "again", input={"columns": {"x": "y"}})
    assert pq.read_table(files_below(tmp_path / "again")[0])["y"].to_pylist() == [1.0, 3.0]
    monkeypatch.setenv(VARIABLE, f"file:{tmp_path / 'nowhere'}")
    parquet._factory.cache_clear()
    with pytest.raises(Forbidden, match="no key of this machine opens it"):
        echo(tmp_path / "out", tmp_path / "third", input={"columns": {"x": "y"}})


def test_without_its_key_nothing_is_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "in/a.parquet")
    spec = echo_spec_of(tmp_path / "in", tmp_path / "out", output={"encrypt": "other"})
    for _ in range(2):  # nothing is begun that would have to be given up
        with pytest.raises(NotFound, match=f"no key of that name: not in {tmp_path / 'keys'}"):
            begin("echo", spec, echo_pin(), ECHO, as_of=None, fresh=False, watch=lambda _: None)
    assert not RunHistory(locate(spec.output.path)).folders()
    assert not files_below(tmp_path / "out")
    sink = ParquetPayloads(PayloadFiles(path=str(tmp_path / "log"), encrypt="other"))
    result = sink.write([payload_event(7315)])
    assert (result.kept, type(result.error)) == (0, NotFound)
    assert not files_below(tmp_path / "log")


def test_the_public_half_alone_writes(tmp_path: Path, keys: Path) -> None:
    (keys / "prod.key").rename(tmp_path / "elsewhere.key")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet", encryption_properties=encryption_of("prod"))
    parquet._factory.cache_clear()
    with pytest.raises(Forbidden):
        pq.ParquetFile(tmp_path / "x.parquet", decryption_properties=decryption())
    os.environ[VARIABLE] = f"file:{tmp_path / 'elsewhere.key'}"
    assert pq.ParquetFile(tmp_path / "x.parquet", decryption_properties=decryption()).read()["x"].to_pylist() == [1]


def test_a_batch_is_published_with_the_public_half_alone(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "in/a.parquet")
    (keys / "prod.key").rename(tmp_path / "elsewhere.key")
    manifest = echo(tmp_path / "in", tmp_path / "out", output={"encrypt": "prod", "columns": {"y": "y"}})
    assert (manifest.written, manifest.quarantined) == (2, 1)
    monkeypatch.setenv(VARIABLE, f"file:{tmp_path / 'elsewhere.key'}")
    (file,) = files_below(tmp_path / "out")
    assert pq.ParquetFile(file, decryption_properties=decryption()).read()["y"].to_pylist() == [1.0, 3.0]
    # One that was cut off is found by its size.
    torn = OutputFile(file.name, 2, file.stat().st_size + 1, "")
    monkeypatch.setenv(VARIABLE, f"file:{tmp_path / 'nowhere'}")
    parquet._factory.cache_clear()
    assert _rows_of(locate(str(file)), torn) == 0


def test_a_payload_log_and_its_replay(tmp_path: Path) -> None:
    sink = ParquetPayloads(PayloadFiles(path=str(tmp_path / "log"), encrypt="prod"))
    assert sink.write([payload_event(1), payload_event(2)]).kept == 2
    assert all(file.read_bytes()[:4] == b"PARE" for file in files_below(tmp_path / "log"))
    specs: dict[str, Any] = {"x": (-1, 3), "sum": (-1,)}
    x, total = (TensorSpec(name=name, datatype=Datatype.FP32, shape=shape) for name, shape in specs.items())
    signature = Signature(inputs=(x,), outputs=(total,))
    found = [one for file in payload_files(str(tmp_path / "log")) for one in recorded(file, "digits", signature)]
    assert sorted(float(one.inputs["x"][0, 0]) for one in found) == [1.0, 2.0]
