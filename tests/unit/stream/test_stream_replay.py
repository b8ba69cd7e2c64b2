"""Replays on a log in memory: what is scored again, where it goes, how it is marked, and where it ends."""

from __future__ import annotations

import threading
import time

import orjson
import pytest

from cluster.errors import BadInput
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.log.port import Log, Partition
from consumers.stream.loop import Loop
from consumers.stream.replay.bounded_log import BoundedLog
from consumers.stream.replay.conditions import Choose, Condition, dead_letters, everything, spec_of_replay
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic
from tests.support.stream_parts import SumScoring

SPEC = StreamSpec(
    model="m",
    input=StreamInput(topic="in", partitions=2),
    output=StreamOutput(topic="out", partitions=2),
    dead_letters=Topic(topic="dead", partitions=1),
    max_batch_rows=5,
    linger_ms=1,
)
CONNECT = "__connect.errors."


def make_broker() -> MemoryBroker:
    broker = MemoryBroker()
    for topic in ("in", "out"):
        broker.create(topic, 2)
    broker.create("dead", 1)
    return broker


def letter(number: int, partition: int, *, body: bytes | None = None, stage: str = "TASK_PUT", said: str = "boom") -> Stored:
    about = {"topic": "in", "partition": str(partition), "offset": str(number), "stage": stage, "exception.message": said}
    headers = [("trace", b"t"), *((CONNECT + name, text.encode()) for name, text in about.items())]
    return Stored(b"k", orjson.dumps({"x": [number, 0, 0]}) if body is None else body, tuple(headers), 7)


def run(broker: MemoryBroker, spec: StreamSpec, ends: dict[Partition, int], choose: Choose) -> BoundedLog:
    """Until it is finished, as run_replay does it."""
    bounded: list[BoundedLog] = []

    def make_log() -> Log:
        bounded.append(BoundedLog(MemoryLog(broker, spec.input.topic, spec.group or "g"), ends, choose))
        return bounded[-1]

    loop = Loop("s", spec, SumScoring(), make_log, extra_headers=(("headrace.replay", b"r1"),))
    worker = threading.Thread(target=loop.run)
    worker.start()
    deadline = time.monotonic() + 20
    while not (bounded and bounded[0].finished and not loop.in_flight_rows):
        assert time.monotonic() < deadline, "did not end in time"
        time.sleep(0.002)
    loop.stop()
    worker.join(20)
    assert loop.in_flight_rows == 0
    return bounded[0]


def again(**given: object) -> StreamSpec:
    return spec_of_replay(SPEC, "s", "r1", of_dead_letters=True, to_topic=None, **given)  # type: ignore[arg-type]


def test_dead_letters_come_out_as_if_they_had_never_died() -> None:
    broker = make_broker()
    for i in range(12):
        broker.append("dead", 0, letter(i, i % 2))
    spec = again()
    assert (spec.input.topic, spec.group) == ("dead", "headrace-s-replay-r1")
    log = run(broker, spec, {Partition("dead", 0): 12}, dead_letters(()))
    assert log.rows_skipped == 0
    for partition in (0, 1):
        stored = broker.topics["out"][partition]
        assert [orjson.loads(one.value or b"")["sum"][0] for one in stored] == list(range(partition, 12, 2))
        headers = dict(stored[0].headers)
        assert headers["headrace.prediction_id"] == b"in/%d/%d" % (partition, partition)
        assert headers["headrace.replay"] == b"r1"
        assert headers["trace"] == b"t"
        assert not any(name.startswith(CONNECT) for name in headers)
    assert broker.committed[spec.group or "", Partition("dead", 0)] == 12


def test_a_letter_that_dies_again_keeps_its_origin_and_the_replay_ends() -> None:
    broker = make_broker()
    broker.append("dead", 0, letter(5, 1, body=b"{"))
    broker.append("dead", 0, letter(6, 1))
    run(broker, again(), {Partition("dead", 0): 2}, dead_letters(()))
    assert len(broker.topics["dead"][0]) == 3
    headers = broker.topics["dead"][0][2].headers
    told = dict(headers)
    assert len(told) == len(headers)
    assert (told[f"{CONNECT}topic"], told[f"{CONNECT}partition"], told[f"{CONNECT}offset"]) == (b"in", b"1", b"5")
    assert told["headrace.replay"] == b"r1"
    assert len(broker.topics["out"][1]) == 1


def test_only_what_is_asked_for_is_scored_again() -> None:
    broker = make_broker()
    for i in range(10):
        broker.append("dead", 0, letter(i, 0, stage="TASK_PUT" if i % 2 else "VALUE_CONVERTER", said=f"number {i}"))
    conditions = [
        Condition.parse("stage=TASK_PUT"),
        Condition.parse("message~number [0-5]"),
        Condition.parse("message!=number 3"),
    ]
    log = run(broker, again(), {Partition("dead", 0): 10}, dead_letters(conditions))
    assert [dict(one.headers)["headrace.prediction_id"] for one in broker.topics["out"][0]] == [b"in/0/1", b"in/0/5"]
    assert log.rows_skipped == 8


def test_a_stretch_ends_where_it_ends() -> None:
    broker = make_broker()
    for i in range(20):
        broker.append("in", i % 2, Stored(b"k", orjson.dumps({"x": [i, 0, 0]}), (), i))
    spec = spec_of_replay(SPEC, "s", "r2", of_dead_letters=False, to_topic="out")
    run(broker, spec, {Partition("in", 0): 3, Partition("in", 1): 0}, everything)
    assert [orjson.loads(one.value or b"")["sum"][0] for one in broker.topics["out"][0]] == [0, 2, 4]
    assert broker.topics["out"][1] == []
    assert broker.committed[spec.group or "", Partition("in", 0)] == 3


@pytest.mark.parametrize("written", ["", "stage", "nothing=1", "message~("])
def test_a_condition_that_can_not_be_read_is_refused(written: str) -> None:
    with pytest.raises(BadInput):
        Condition.parse(written)


def test_a_replay_never_writes_what_it_reads() -> None:
    with pytest.raises(BadInput, match="what the replay reads"):
        spec_of_replay(SPEC, "s", "r", of_dead_letters=True, to_topic="dead")
