"""A version that fails ends a run after few calls of its engine, not after one a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Signature
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.rowscorer import EmbeddedScorer, RowScorer
from consumers.batch.write.records import RunRecord
from deployments.engines.datatypes import Array
from tests.support.batch_parts import echo_pin, echo_spec_of

ROWS = 65_536


class Failing:
    """An engine that fails where a batch holds a number of `fails` or above."""

    def __init__(self, fails: float) -> None:
        self.fails = fails
        self.calls = 0
        self.signature: Signature = echo_pin().signature

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        if (tensors["x"] >= self.fails).any():
            raise EngineFailure("boom")
        return {"y": tensors["x"]}

    def close(self) -> None:
        """Nothing is held."""


def run(folder: Path, engine: Failing, **changes: object) -> None:
    (folder / "in").mkdir()
    pq.write_table(pa.table({"x": pa.array(range(ROWS), pa.float32())}), folder / "in/a.parquet")

    def scorer(record: RunRecord) -> RowScorer:
        spec = record.spec
        return EmbeddedScorer(engine, rows_per_call=spec.rows_per_call, most_failed=spec.max_quarantined)

    spec = echo_spec_of(folder / "in", folder / "out", **changes)
    begin("echo", spec, echo_pin(), inline_workforce(scorer), as_of=None, fresh=False, watch=lambda _progress: None)


def test_a_version_that_fails_every_row(tmp_path: Path) -> None:
    engine = Failing(0)
    with pytest.raises(EngineFailure, match=r"version 1 of echo answered none of its first 500 rows: .*boom") as caught:
        run(tmp_path, engine, max_quarantined=10**6)
    assert engine.calls < 1100
    assert pq.read_table(caught.value.where)["x"].to_pylist() == list(range(500))
    assert not (tmp_path / "out").exists()


def test_a_version_that_fails_more_rows_than_may_fail(tmp_path: Path) -> None:
    engine = Failing(5000)
    with pytest.raises(BadInput, match="101 rows can't be scored, more than max_quarantined") as caught:
        run(tmp_path, engine, max_quarantined=100)
    assert engine.calls < 300
    assert pq.read_table(caught.value.where)["x"].to_pylist() == list(range(5000, 5101))


def test_a_version_that_works_may_fail_as_many_rows_in_a_row_as_is_declared(tmp_path: Path) -> None:
    run(tmp_path, Failing(ROWS - 2000), max_quarantined=2000)
    assert pq.read_table(tmp_path / "out").num_rows == ROWS - 2000
