"""A model's payload log has a sample of what its batches score, once their units are done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from cluster.errors import NoCapacity
from cluster.watch.payloads import PayloadFiles, Payloads, PayloadTopic
from consumers.batch.run import Workforce, begin, resume
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.unit_payloads import EVENT_ROWS, UnitPayloads
from consumers.batch.spec import BatchSpec
from consumers.batch.write.records import Pinned
from consumers.payload_replay.recorded import payload_files, recorded
from headrace.local.ports import free_port
from tests.support.batch_parts import (
    digits_pin,
    engine_scorer,
    images,
    published,
    quarantined,
    scores,
    spec_of,
    stopping_after,
    write_dataset,
    write_file,
)

INLINE = inline_workforce(engine_scorer)


@pytest.fixture
def pin(tmp_path: Path) -> Pinned:
    return digits_pin(tmp_path)


def keeping(pin: Pinned, payloads: Payloads) -> Pinned:
    return pin.model_copy(update={"payloads": payloads})


def run(spec: BatchSpec, pin: Pinned, workforce: Workforce = INLINE) -> None:
    begin("digits", spec, pin, workforce, as_of=None, fresh=False, watch=lambda _progress: None)


def kept(folder: Path) -> pa.Table:
    return ds.dataset(folder, format="parquet").to_table()


def test_all_rows_with_their_answers_but_those_in_quarantine(tmp_path: Path, pin: Pinned) -> None:
    rows = images(600)
    rows[5] = None
    write_file(tmp_path / "in/a.parquet", range(600), rows, row_group_size=600)
    log = Payloads(sample=1.0, parquet=PayloadFiles(path=str(tmp_path / "log")))
    run(spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 600}), keeping(pin, log))
    assert list(quarantined(tmp_path / "out")) == [5]
    table = kept(tmp_path / "log")
    assert table.num_rows == 599
    assert set(table["headrace_way"].to_pylist()) == {"batch"}
    assert set(table["headrace_version"].to_pylist()) == {1}
    np.testing.assert_allclose(
        np.array(table["headrace_output_probabilities"].to_pylist()),
        scores(pin, np.array(table["image"].to_pylist(), np.float32)),
        atol=1e-5,
    )
    found = [one for file in payload_files(str(tmp_path / "log")) for one in recorded(file, "digits", pin.signature)]
    assert sorted(one.rows for one in found) == [599 - 2 * EVENT_ROWS, EVENT_ROWS, EVENT_ROWS]
    asked = np.concatenate([one.inputs["image"] for one in found])
    given = np.array([row for row in rows if row is not None], np.float32)
    np.testing.assert_array_equal(np.sort(asked.sum(axis=1)), np.sort(given.sum(axis=1)))


def test_a_share_stands_for_the_whole_and_is_the_same_again(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=4)
    for log, out in (("log-1", "out-1"), ("log-2", "out-2")):
        settings = Payloads(sample=0.2, parquet=PayloadFiles(path=str(tmp_path / log)))
        run(spec_of(tmp_path / "in", tmp_path / out), keeping(pin, settings))
    first, second = kept(tmp_path / "log-1"), kept(tmp_path / "log-2")
    assert sum(first["headrace_weight"].to_pylist()) == pytest.approx(1200, rel=0.2)
    assert sorted(first["headrace_id"].to_pylist()) == sorted(second["headrace_id"].to_pylist())


def test_a_run_that_stopped_goes_on_keeping_them_and_none_twice(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=2)
    log = Payloads(sample=1.0, parquet=PayloadFiles(path=str(tmp_path / "log")))
    with pytest.raises(NoCapacity):
        run(spec_of(tmp_path / "in", tmp_path / "out"), keeping(pin, log), stopping_after(INLINE, 2))
    assert kept(tmp_path / "log").num_rows == 200
    resume("digits", str(tmp_path / "out"), INLINE, watch=lambda _progress: None)
    table = kept(tmp_path / "log")
    assert table.num_rows == 600
    assert len(set(zip(table["headrace_id"].to_pylist(), table["headrace_row"].to_pylist(), strict=True))) == 600


def test_a_sink_that_is_away_costs_the_payloads_and_no_row(tmp_path: Path, pin: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "in", files=1)
    away = Payloads(sample=1.0, kafka=PayloadTopic(topic="t", brokers=f"127.0.0.1:{free_port()}"))
    monkeypatch.setattr("deployments.observe.payloads.log.CLOSE_S", 0.5)
    run(spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 300}), keeping(pin, away))
    assert published(tmp_path / "out").num_rows == 300


def test_a_model_without_a_sample_keeps_none(tmp_path: Path, pin: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "in", files=1)
    monkeypatch.delattr(UnitPayloads, "of")
    for payloads in (None, Payloads(sample=0, parquet=PayloadFiles(path=str(tmp_path / "log")))):
        run(spec_of(tmp_path / "in", tmp_path / f"out-{payloads is None}"), pin.model_copy(update={"payloads": payloads}))
    assert not (tmp_path / "log").exists()
