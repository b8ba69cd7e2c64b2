"""What a stream's worker keeps of its records, once they are committed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson

from cluster.errors import EngineFailure, HeadraceError
from cluster.watch.payloads import Payloads, PayloadTopic
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.loop import Loop
from consumers.stream.payloads.taken import PayloadTaker
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic
from deployments.engines.datatypes import Array
from deployments.observe.payloads.event import PayloadOutcome
from deployments.observe.payloads.log import PayloadLog
from deployments.scoring.port import Scored
from tests.support.payloads import CountingMeters, MemorySink
from tests.support.stream_parts import SumScoring
from tests.support.waiting import until

SPEC = StreamSpec(
    model="m",
    input=StreamInput(topic="in", partitions=2),
    output=StreamOutput(topic="out", partitions=2),
    dead_letters=Topic(topic="dead", partitions=1),
    max_batch_rows=7,
    linger_ms=1,
    breaker_rows=20,
)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def put(broker: MemoryBroker, i: int) -> None:
    value = b"{" if i == 4 else orjson.dumps({"x": [i, 0, 0]})
    broker.append("in", i % 2, Stored(b"k", value, (("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode()),), 1000 + i))


class KeptScoring(SumScoring):
    """As a scorer whose model has payloads."""

    settings = Payloads(sample=1.0, kafka=PayloadTopic(topic="t"))

    def _score(self, rows: Array, keys: Sequence[bytes | None]) -> Scored:
        return replace(super()._score(rows, keys), payloads=self.settings)


def fails_for_6(rows: Array) -> dict[int, HeadraceError]:
    return {int(at): EngineFailure("6") for at in np.flatnonzero(rows[:, 0] == 6)}


def test_each_committed_record_is_kept_with_its_answer() -> None:
    broker, sink = MemoryBroker(), MemorySink()
    for topic in (SPEC.input, SPEC.output, SPEC.dead_letters):
        broker.create(topic.topic, topic.partitions)
    for i in range(40):
        put(broker, i)
    log = PayloadLog(CountingMeters(), lambda _: sink)
    loop = Loop("s", SPEC, KeptScoring(row_errors=fails_for_6), lambda: MemoryLog(broker, "in", "g"), payloads=log)
    thread = threading.Thread(target=loop.run)
    thread.start()
    until(lambda: sum(map(len, broker.topics["out"])) == 38, 20)
    loop.stop()
    thread.join(30)
    log.close()
    # Record 4 can't be decoded: it has no tensors.
    by_id = {event.id: event for event in sink.events}
    assert len(sink.events) == len(by_id) == 39
    assert by_id.keys() == {f"in/{i % 2}/{i // 2}" for i in range(40) if i != 4}
    for i in range(40):
        if (event := by_id.get(f"in/{i % 2}/{i // 2}")) is None:
            continue
        assert event.inputs["x"].tolist() == [[i, 0, 0]]
        assert event.trace_id == TRACE
        if i == 6:
            assert (event.outcome, event.outputs) == (PayloadOutcome.ERROR, None)
        else:
            assert event.outputs is not None
            assert (event.outcome, event.outputs["sum"].tolist()) == (PayloadOutcome.OK, [[i]])


def test_an_event_that_is_kept_holds_no_other_s_texts() -> None:
    texts = np.array([b"long" * 1000, b"short", b"failed"], np.object_)
    scored = Scored({"said": texts}, np.full(3, 1, np.int32), {2: EngineFailure("2")})
    records: Any = SimpleNamespace(origin=(("in", 0), [7, 8, 9]), headers=[(), (), ()])
    taker = PayloadTaker(Payloads(sample=1.0, errors=1.0, kafka=PayloadTopic(topic="t")), "m", {"text": texts}, scored, 0)
    events = taker.of(records, np.arange(3), np.arange(3), np.array([True, True, False])).events
    assert [event.inputs["text"].tolist() for event in events] == [[text] for text in texts]
    for event in events:
        assert all(tensor.base is None for tensor in (*event.inputs.values(), *(event.outputs or {}).values()))
