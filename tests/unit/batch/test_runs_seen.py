"""What the console tells of a batch's runs, read from real ledgers; and jobs that persons asked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import Conflict, NoCapacity, NotFound
from cluster.watch.payloads import PayloadFiles, Payloads
from consumers.batch import runs_seen
from consumers.batch.runs_seen import LedgerRuns, rate_of
from consumers.batch.schedule.job import left_unfinished, run_asked, run_fire
from consumers.batch.spec import BatchSpec
from consumers.batch.write.lock import file_lock
from consumers.batch.write.records import Receipt
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import Place, locate
from tests.support.batch_parts import ECHO, echo, echo_pin, echo_spec_of, stopping_after

DAY = date(2026, 11, 23)


def dataset(folder: Path, *, bad: int, files: int = 3) -> None:
    """Files of 100 rows, one row group each; the first rows of the first have no number."""
    folder.mkdir(exist_ok=True)
    for at in range(files):
        x = [None if at == 0 and i < bad else float(i) for i in range(100)]
        table = pa.table({"x": pa.array(x, pa.float32()), "note": ["<b>" * 100] * 100, "raw": [b"12345"] * 100})
        pq.write_table(table, folder / f"{at}.parquet")


def spec_of(tmp_path: Path, **changes: Any) -> BatchSpec:
    return echo_spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 100}, **changes)


def seen_by(ledgers: LedgerRuns, spec: BatchSpec) -> list[Any]:
    return list(ledgers.runs(spec.model_dump(mode="json")))


def test_runs_are_told_with_how_far_each_is(tmp_path: Path) -> None:
    dataset(tmp_path / "in", bad=3)
    spec, ledgers = spec_of(tmp_path), LedgerRuns()
    assert seen_by(ledgers, spec) == []
    manifest = run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="hand-echo-1")
    assert manifest is not None
    with pytest.raises(NoCapacity):
        run_fire("echo", spec, echo_pin(), stopping_after(ECHO, 2), as_of=DAY, fire="sched-echo-2")
    for _ in range(2):  # the second look reads only what is new
        left, over = seen_by(ledgers, spec)
        assert (over.run_id, over.state, over.rows, over.quarantined) == (manifest.run_id, "published", 300, 3)
        assert (over.fire, over.units, over.units_done, over.held) == ("hand-echo-1", 3, 3, False)
        assert over.rows_s == pytest.approx(300 / (manifest.ended_s - manifest.started_s))
        assert (left.state, left.units, left.units_done, left.rows, left.rows_done) == ("unfinished", 3, 2, 300, 200)
        assert (left.as_of, left.ended_s, left.rows_s) == ("2026-11-23", None, None)
    with file_lock(RunHistory(locate(spec.output.path)).home, "echo", wait=False):
        running = seen_by(ledgers, spec)[0]
        assert (running.state, running.held) == ("running", True)
        assert running.left_s == pytest.approx(100 / running.rows_s)


def test_a_run_that_is_over_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "in", bad=0)
    spec, ledgers = spec_of(tmp_path), LedgerRuns()
    for fire in ("f1", "f2"):
        assert run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire=fire) is not None
    before = seen_by(ledgers, spec)
    asked: list[str] = []
    monkeypatch.setattr(Place, "exists", lambda place: asked.append(place.path))
    monkeypatch.setattr(Place, "read", lambda place: asked.append(place.path))
    assert (seen_by(ledgers, spec), asked) == (before, [])


def test_the_rate_is_of_the_last_minute() -> None:
    def receipt(rows: int, started_s: float, seconds: float) -> Receipt:
        return Receipt("u", rows, 0, (), None, seconds, started_s)

    assert rate_of([receipt(1000, 0.0, 10.0)], now_s=100.0) is None
    assert rate_of([receipt(1000, 0.0, 10.0), receipt(300, 90.0, 5.0)], now_s=100.0) == pytest.approx(30.0)


def test_rows_that_were_set_aside_are_told_by_reason_as_short_texts(tmp_path: Path) -> None:
    dataset(tmp_path / "in", bad=9)
    spec, ledgers = spec_of(tmp_path), LedgerRuns()
    manifest = run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="f1")
    assert manifest is not None
    document = spec.model_dump(mode="json")
    found = ledgers.quarantine(document, manifest.run_id, frozenset())
    assert (found.rows, found.looked_at, found.kept, found.redacted, found.more_columns) == (9, 9, True, (), 0)
    (one,) = found.reasons
    assert (one.rows, len(one.samples)) == (9, 5)
    assert "x" in one.reason
    row = one.samples[0]
    assert (row["x"], row["raw"], row["_file"].endswith("0.parquet")) == ("null", "5 bytes", True)
    assert (len(row["note"]), row["note"][-1]) == (120, "…")
    hidden = ledgers.quarantine(document, manifest.run_id, frozenset({"x"}))
    assert hidden.redacted == ("x",)
    assert "x" not in hidden.reasons[0].samples[0]
    # The next run takes its place; its own rows are found all the same.
    dataset(tmp_path / "in", bad=2)
    again = run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="f2")
    assert again is not None
    assert ledgers.quarantine(document, again.run_id, frozenset()).rows == 2
    assert ledgers.quarantine(document, manifest.run_id, frozenset()).rows == 9
    with pytest.raises(NotFound):
        ledgers.quarantine(document, "r0", frozenset())


def test_of_very_many_rows_that_were_set_aside_the_first_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "in", bad=9)
    spec = spec_of(tmp_path)
    manifest = run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="f1")
    assert manifest is not None
    monkeypatch.setattr(runs_seen, "COUNTED_ROWS", 4)
    monkeypatch.setattr(runs_seen, "COUNTED_AT_A_TIME", 2)
    found = LedgerRuns().quarantine(spec.model_dump(mode="json"), manifest.run_id, frozenset())
    assert (found.rows, found.looked_at, found.reasons[0].rows) == (9, 4, 4)


def test_what_was_redacted_when_the_run_began_stays_so(tmp_path: Path) -> None:
    dataset(tmp_path / "in", bad=1)
    spec = spec_of(tmp_path, output={"mode": "append"})
    kept = Payloads(parquet=PayloadFiles(path="/payloads"), redact=("x",))
    manifest = echo(
        tmp_path / "in", tmp_path / "out", echo_pin().model_copy(update={"payloads": kept}), output={"mode": "append"}
    )
    found = LedgerRuns().quarantine(spec.model_dump(mode="json"), manifest.run_id, frozenset())
    assert (found.rows, found.redacted) == (1, ("x",))


def test_a_person_resumes_or_gives_up_what_he_has_seen_and_nothing_else(tmp_path: Path) -> None:
    dataset(tmp_path / "in", bad=0)
    spec = spec_of(tmp_path)
    with pytest.raises(NoCapacity):
        run_asked("echo", spec, echo_pin(), stopping_after(ECHO, 1), as_of=DAY, fire="hand-1")
    left = left_unfinished(spec)
    for given_up in ("", "r20261123T000000.000000-0000"):
        with pytest.raises(Conflict, match="is unfinished"):
            run_asked("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="hand-2", given_up=given_up)
    with pytest.raises(Conflict, match=f"but {left}"):
        run_asked("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="hand-3", resumed="r20261123T000000.000000-0000")
    resumed = run_asked("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="hand-4", resumed=left)
    assert resumed is not None
    assert (resumed.run_id, resumed.rows) == (left, 300)
    with pytest.raises(NoCapacity):
        run_asked("echo", spec, echo_pin(), stopping_after(ECHO, 1), as_of=DAY, fire="hand-5")
    other = run_asked("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="hand-6", given_up=left_unfinished(spec))
    assert other is not None
    assert [run.run_id for run in RunHistory(locate(spec.output.path)).all()] == [left, other.run_id]


@pytest.mark.parametrize("gone", ["plan.json", "receipts/000000-*.json"])
def test_a_run_that_is_just_being_removed_is_left_out_and_the_others_are_told(tmp_path: Path, gone: str) -> None:
    dataset(tmp_path / "in", bad=0)
    spec = spec_of(tmp_path)
    published = run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="f1")
    assert published is not None
    with pytest.raises(NoCapacity):
        run_fire("echo", spec, echo_pin(), stopping_after(ECHO, 2), as_of=DAY, fire="f2")
    run = RunHistory(locate(spec.output.path)).unfinished()
    assert run is not None
    (file,) = Path(run.place.path).glob(gone)
    listed = Place.children

    def then_removed(place: Place) -> list[str]:
        found = listed(place)
        if place.path == str(file.parent):
            file.unlink(missing_ok=True)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "children", then_removed)
        assert [seen.run_id for seen in seen_by(LedgerRuns(), spec)] == [published.run_id]


def test_a_receipt_that_nobody_can_read_is_told_as_such(tmp_path: Path) -> None:
    dataset(tmp_path / "in", bad=0)
    spec = spec_of(tmp_path)
    with pytest.raises(NoCapacity):
        run_fire("echo", spec, echo_pin(), stopping_after(ECHO, 2), as_of=DAY, fire="f1")
    run = RunHistory(locate(spec.output.path)).unfinished()
    assert run is not None
    (run.place / "receipts" / "000000-aaaaaaaa.json").write(b'{"unit": "of another release"}')
    with pytest.raises(Conflict, match="not a run that this version of headrace can read") as told:
        seen_by(LedgerRuns(), spec)
    assert (told.value.where or "").endswith("000000-aaaaaaaa.json")


def test_rows_that_were_set_aside_are_shown_whatever_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    no_text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")])
    late, deep = pa.array([2**62], pa.timestamp("us")), pa.ListArray.from_arrays([0, 1], no_text)
    table = pa.table({"x": pa.array([None], pa.float32()), "text": no_text, "late": late, "deep": deep})
    pq.write_table(table, tmp_path / "in" / "0.parquet")
    spec = spec_of(tmp_path)
    manifest = run_fire("echo", spec, echo_pin(), ECHO, as_of=DAY, fire="f1")
    assert manifest is not None
    (reason,) = LedgerRuns().quarantine(spec.model_dump(mode="json"), manifest.run_id, frozenset()).reasons
    row = reason.samples[0]
    assert (row["text"], row["late"]) == ("a\ufffd\ufffd", "no readable timestamp[us]")
    assert row["deep"].startswith("no readable list<")
