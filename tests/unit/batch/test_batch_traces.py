"""A run is one trace: a span for the run, and one for each unit."""

from __future__ import annotations

from pathlib import Path

from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.traced import trace_of, traced
from deployments.observe.traces.settings import TraceSettings
from tests.support.batch_parts import digits_pin, engine_scorer, spec_of, write_dataset
from tests.support.trace_receiver import receiving

CLOCKS_NS = 1_000_000


def test_a_run_and_its_units_are_one_trace(tmp_path: Path) -> None:
    total, pin = write_dataset(tmp_path / "in"), digits_pin(tmp_path)
    spec, inline = spec_of(tmp_path / "in", tmp_path / "out"), inline_workforce(engine_scorer)
    with receiving() as receiver:
        with traced(inline, TraceSettings(receiver.url, ratio=0.0)) as workforce:
            manifest = begin("digits", spec, pin, workforce, as_of=None, fresh=False, watch=lambda _: None)
        spans = receiver.trace(f"{trace_of(manifest.run_id):032x}", least=manifest.units + 1)
    assert len(receiver.spans) == len(spans) == 13
    root = next(span for span in spans if not span.parent)
    units = [span for span in spans if span is not root]
    assert (root.name, root.service, root.failed) == ("batch digits", "headrace-batch", False)
    assert root.attributes["headrace.run"] == manifest.run_id
    assert {span.parent for span in units} == {root.span}
    assert {span.name for span in units} == {"unit digits"}
    assert sum(span.attributes["headrace.rows"] for span in units) == total
    # A unit's times are seconds of a worker's clocks: they may be a little off the driver's nanoseconds.
    begin_ns, end_ns = root.began_ns - CLOCKS_NS, root.ended_ns + CLOCKS_NS
    assert all(begin_ns <= span.began_ns <= span.ended_ns <= end_ns for span in units)


def test_without_a_receiver_a_workforce_stays_what_it_is() -> None:
    inline = inline_workforce(engine_scorer)
    with traced(inline) as workforce:
        assert workforce is inline
