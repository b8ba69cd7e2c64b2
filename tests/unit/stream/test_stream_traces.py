"""A sampled record is one trace from its producer to its answer."""

from __future__ import annotations

from pathlib import Path

from cluster.watch.catalogue import MALFORMED_TRACEPARENTS
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.spec import Format, StreamInput, StreamOutput, StreamSpec, Topic
from tests.support.models import rows
from tests.support.trace_receiver import receiving
from tests.support.traced_stream import check_traces, sent_headers, traced_loop
from tests.support.waiting import until

COUNT = 6
SPEC = StreamSpec(
    model="digits",
    input=StreamInput(topic="in", partitions=1, format=Format.RAW),
    output=StreamOutput(topic="out", partitions=1, format=Format.RAW),
    dead_letters=Topic(topic="dead", partitions=1),
)


def test_a_sampled_record_is_one_trace_and_a_dead_letter_keeps_its_own_context(tmp_path: Path) -> None:
    broker, (sent, traces) = MemoryBroker(), sent_headers(COUNT)
    for topic in (SPEC.input, SPEC.output, SPEC.dead_letters):
        broker.create(topic.topic, topic.partitions)
    for number, headers in enumerate(sent):
        broker.append("in", 0, Stored(b"k", rows(1, seed=number).tobytes(), headers, 1000 + number))
    with receiving() as receiver, traced_loop(SPEC, lambda: MemoryLog(broker, "in", "g"), receiver, tmp_path) as meters:
        until(lambda: sum(map(len, broker.topics["out"])) == COUNT, 20)
        answered = {int(dict(one.headers)["n"] or b""): list(one.headers) for one in broker.topics["out"][0]}
        check_traces(receiver, traces, sent, answered, SPEC)
        broker.append("in", 0, Stored(b"k", b"too short", sent[1], 2000))
        until(lambda: len(broker.topics["dead"][0]) == 1, 20)
        dead = next(one for one in broker.topics["dead"][0])
        assert dict(dead.headers)["traceparent"] == dict(sent[1])["traceparent"]
        until(lambda: any(span.failed for span in receiver.spans), 20)
        (failed,) = [span for span in receiver.spans if span.failed]
        assert (failed.name, failed.trace, failed.attributes["error.type"]) == ("process in", traces[1], "BadInput")
        report = meters.next_report()
        assert report is not None
        assert {series.metric: count for series, count in report.counters.items()}[MALFORMED_TRACEPARENTS.name] == 1
