"""The payload log: what is kept, what it weighs, and that no sink is ever in anyone's way."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import EngineFailure, NoCapacity
from cluster.watch.payloads import PayloadFiles, Payloads, PayloadTopic
from deployments.observe.payloads.event import PayloadOutcome
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.payloads.sampling import is_sampled, sampled_places
from tests.support.payloads import AwaySink, CountingMeters, HangingSink, MemorySink, payload_event
from tests.support.waiting import until

TOPIC = PayloadTopic(topic="t")
X, VERSIONS = np.ones((2, 3), np.float32), np.array([3, 3], np.int32)
OUTPUTS = {"sum": X.sum(axis=1)}


def log_to(sink: MemorySink) -> tuple[PayloadLog, CountingMeters]:
    meters = CountingMeters()
    return PayloadLog(meters, lambda _: sink), meters


def ask(log: PayloadLog, payloads: Payloads, times: int = 1) -> None:
    for _ in range(times):
        log.answered(payloads, "m", {"x": X, "secret": X}, OUTPUTS, VERSIONS, request_id="7", label_keys=["a", "b"])


def test_a_share_is_kept_with_what_it_stands_for_and_without_what_is_redacted() -> None:
    sink = MemorySink()
    log, meters = log_to(sink)
    ask(log, Payloads(sample=0.1, redact=("secret",), kafka=TOPIC), 4000)
    log.close()
    # 400 are expected, with a standard deviation of 19.
    assert 300 < len(sink.events) < 500
    assert sink.closed
    assert meters.counted == {"logged": len(sink.events)}
    one = sink.events[0]
    assert (one.weight, one.version, one.request_id, one.label_keys) == (10.0, 3, "7", ("a", "b"))
    assert set(one.inputs) == {"x"}
    assert one.outputs is not None
    np.testing.assert_array_equal(one.outputs["sum"], OUTPUTS["sum"])
    assert not np.shares_memory(one.inputs["x"], X)
    assert len({event.id for event in sink.events}) == len(sink.events)


def test_errors_are_kept_whole_but_not_what_there_was_no_room_for() -> None:
    sink = MemorySink()
    log, _ = log_to(sink)
    settings = Payloads(sample=0.0, kafka=TOPIC)
    ask(log, settings)
    log.failed(settings, "m", {"x": X}, 3, EngineFailure("it has no idea"), request_id="")
    log.failed(settings, "m", {"x": X}, 3, NoCapacity("full"), request_id="")
    log.close()
    (one,) = sink.events
    assert (one.outcome, one.weight, one.error, one.outputs) == (PayloadOutcome.ERROR, 1.0, EngineFailure("").kind, None)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_the_sample_is_a_function_of_id_and_seed(share: float) -> None:
    offsets = np.arange(100_000)
    chosen = sampled_places("in/0", offsets, share, 1)
    assert len(chosen) / len(offsets) == pytest.approx(share, rel=0.1)
    np.testing.assert_array_equal(chosen[chosen >= 500], 500 + sampled_places("in/0", offsets[500:], share, 1))
    other = sampled_places("in/0", offsets, share, 2)
    assert len(np.intersect1d(chosen, other)) / len(offsets) == pytest.approx(share * share, rel=0.5)
    assert sum(is_sampled(f"p{n}", share, 1) for n in range(20_000)) / 20_000 == pytest.approx(share, rel=0.25)


def test_a_sink_that_hangs_delays_nobody_and_what_it_does_not_take_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    sink = HangingSink()
    log, meters = log_to(sink)
    settings = Payloads(sample=1.0, kafka=TOPIC, buffer_bytes=1 << 16)
    with caplog.at_level(logging.WARNING):
        ask(log, settings)
        assert sink.entered.wait(10)
        ask(log, settings, 500)
        assert sink.events == []  # it hangs still
    dropped = meters.counted["dropped"]
    assert 300 < dropped < 500
    sink.go_on.set()
    log.close()
    assert meters.counted == {"dropped": dropped, "logged": 501 - dropped}
    assert len([record for record in caplog.records if "dropped" in record.getMessage()]) == 1


def test_what_a_sink_cannot_keep_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log, meters = log_to(AwaySink())
    settings = Payloads(sample=1.0, kafka=TOPIC)
    with caplog.at_level(logging.WARNING):
        ask(log, settings)
        until(lambda: meters.counted.get("failed") == 1, 10)
        ask(log, settings)
        until(lambda: meters.counted.get("failed") == 2, 10)
    log.close()
    assert len([record for record in caplog.records if "it is away" in record.getMessage()]) == 1


def test_a_large_request_is_not_even_copied() -> None:
    log, meters = log_to(MemorySink())
    settings = Payloads(sample=1.0, kafka=TOPIC, buffer_bytes=1 << 16)
    large = np.zeros((1 << 15, 3), np.float32)
    log.answered(settings, "m", {"x": large}, {}, np.zeros(len(large), np.int32), request_id="")
    log.close()
    assert meters.counted == {"dropped": 1}


def test_without_what_opens_topics_they_fail_and_files_are_written(tmp_path: Path) -> None:
    meters = CountingMeters()
    log = PayloadLog(meters)
    settings = Payloads(sample=1.0, kafka=TOPIC, parquet=PayloadFiles(path=str(tmp_path)))
    log.put(settings, payload_event(1).model, [payload_event(1)])
    log.close()
    until(lambda: meters.counted == {"failed": 1, "logged": 1}, 60)  # a busy machine may need longer than a close waits for
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_a_model_without_payloads_any_more_has_its_last_ones_written() -> None:
    sink = MemorySink()
    log, _ = log_to(sink)
    ask(log, Payloads(sample=1.0, kafka=TOPIC))
    log.keep({})
    until(lambda: sink.closed, 10)
    assert len(sink.events) == 1
