"""The worker on a log in memory: what comes out, what dies, what is held, what is taken back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

import orjson
import pytest

from cluster.errors import BadInput, EngineFailure, NoCapacity, Unreachable
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.log.port import Outgoing, Partition, Records, TopicLimits
from consumers.stream.loop import Loop
from consumers.stream.phases import WorkerPhase
from consumers.stream.security import Registry
from consumers.stream.spec import Format, InputEnvelope, OnEmpty, OutputEnvelope, StreamInput, StreamOutput, StreamSpec, Topic
from tests.support import waiting
from tests.support.schema_registry import schema_registry
from tests.support.stream_parts import SumScoring

SPEC = StreamSpec(
    model="m",
    input=StreamInput(topic="in", partitions=2),
    output=StreamOutput(topic="out", partitions=2),
    dead_letters=Topic(topic="dead", partitions=1),
    max_batch_rows=7,
    linger_ms=1,
    breaker_rows=20,
)


def make_broker() -> MemoryBroker:
    broker = MemoryBroker()
    for topic in (SPEC.input, SPEC.output, SPEC.dead_letters):
        broker.create(topic.topic, topic.partitions)
    return broker


def put(broker: MemoryBroker, i: int, value: bytes | None = None, *, key: bytes | None = b"k") -> None:
    body = orjson.dumps({"x": [i, 0, 0]}) if value is None else value
    broker.append("in", i % 2, Stored(key, body, (("trace", b"t"),), 1000 + i))


@contextmanager
def running(broker: MemoryBroker, scoring: SumScoring, spec: StreamSpec = SPEC) -> Iterator[Loop]:
    loop = Loop("s", spec, scoring, lambda: MemoryLog(broker, "in", "g"))
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join(30)
        assert not thread.is_alive()


until = partial(waiting.until, limit_s=20.0, every_s=0.001)


def count(broker: MemoryBroker, topic: str) -> int:
    return sum(map(len, broker.topics[topic]))


def sums(broker: MemoryBroker, partition: int) -> list[float]:
    return [orjson.loads(record.value or b"")["sum"][0] for record in broker.topics["out"][partition]]


def test_each_record_comes_out_once_in_order_with_its_origin() -> None:
    broker, scoring = make_broker(), SumScoring()
    for i in range(100):
        put(broker, i)
    with running(broker, scoring) as loop:
        until(lambda: count(broker, "out") == 100)
    assert loop.phase is WorkerPhase.STOPPED
    assert [sums(broker, 0), sums(broker, 1)] == [list(range(0, 100, 2)), list(range(1, 100, 2))]
    record = broker.topics["out"][1][3]
    assert (record.key, record.timestamp_ms) == (b"k", 1007)
    assert dict(record.headers) == {
        "trace": b"t",
        "headrace.model": b"m",
        "headrace.version": b"1",
        "headrace.prediction_id": b"in/1/3",
    }
    assert set(scoring.keys) == {b"k"}


def test_a_record_without_key_is_split_by_its_prediction_id() -> None:
    broker, scoring = make_broker(), SumScoring()
    put(broker, 1, key=None)
    with running(broker, scoring):
        until(lambda: count(broker, "out") == 1)
    assert scoring.keys == [b"in/1/0"]


def test_bad_records_die_whole_and_their_neighbours_are_scored() -> None:
    broker = make_broker()
    bad = [b"", b"{", b"[1]", b'{"y": 1}', b'{"x": [1, 2]}', b'{"x": [1, 2, "3"]}', b"\xff\xfe"]
    for i, value in enumerate(bad):
        put(broker, 2 * i, value)
        put(broker, 2 * i + 1)
    with running(broker, SumScoring()):
        until(lambda: count(broker, "out") == len(bad) and count(broker, "dead") == len(bad))
    dead = broker.topics["dead"][0]
    assert [record.value for record in dead] == bad
    headers = dict(dead[4].headers)
    assert headers["trace"] == b"t"
    assert headers["__connect.errors.topic"] == b"in"
    assert headers["__connect.errors.partition"] == b"0"
    assert headers["__connect.errors.offset"] == b"4"
    assert headers["__connect.errors.stage"] == b"VALUE_CONVERTER"
    assert headers["__connect.errors.exception.class.name"] == b"cluster.errors.BadInput"
    told = headers["__connect.errors.exception.message"] or b""
    assert b"x" in told
    assert headers["__connect.errors.exception.stacktrace"] == b"cluster.errors.BadInput: " + told + b"\n"


def test_a_tombstone_passes_where_that_is_declared() -> None:
    broker = make_broker()
    broker.append("in", 0, Stored(b"gone", None, (), 5))
    put(broker, 2)
    spec = SPEC.model_copy(update={"input": SPEC.input.model_copy(update={"on_empty": OnEmpty.PASS})})
    with running(broker, SumScoring(), spec):
        until(lambda: count(broker, "out") == 2)
    assert {record.value for record in broker.topics["out"][0]} >= {None}
    assert count(broker, "dead") == 0


def test_rows_at_fault_in_scoring_die_with_the_reason() -> None:
    broker = make_broker()
    for i in range(30):
        put(broker, i)
    scoring = SumScoring(
        row_errors=lambda rows: {int(j): BadInput("NaN in x", where="x") for j in (rows[:, 0] % 5 == 0).nonzero()[0]}
    )
    with running(broker, scoring):
        until(lambda: count(broker, "out") == 24 and count(broker, "dead") == 6)
    assert {dict(r.headers)["__connect.errors.stage"] for r in broker.topics["dead"][0]} == {b"TASK_PUT"}


@pytest.mark.parametrize("error", [NoCapacity("full"), Unreachable("away")])
def test_transient_trouble_holds_and_nothing_dies(error: Exception) -> None:
    broker, failures = make_broker(), [error] * 3
    for i in range(40):
        put(broker, i)

    def fail() -> None:
        if failures:
            raise failures.pop()

    with running(broker, SumScoring(fail=fail)) as loop:
        until(lambda: count(broker, "out") == 40)
        assert loop.counters.retries >= 1
    assert count(broker, "dead") == 0
    assert [sums(broker, 0), sums(broker, 1)] == [list(range(0, 40, 2)), list(range(1, 40, 2))]


def test_a_commit_that_fails_is_done_again_from_the_committed_offsets() -> None:
    broker = make_broker()
    broker.fail_next = [Unreachable("fenced"), Unreachable("fenced again")]
    for i in range(60):
        put(broker, i)
    with running(broker, SumScoring()) as loop:
        until(lambda: count(broker, "out") >= 60)
    assert loop.counters.recoveries == 2
    assert [sums(broker, 0), sums(broker, 1)] == [list(range(0, 60, 2)), list(range(1, 60, 2))]


def test_a_worker_whose_every_poll_is_refused_recovers_until_one_succeeds() -> None:
    broker, refused, seen = make_broker(), threading.Event(), list[tuple[WorkerPhase, str]]()
    put(broker, 0)
    refused.set()

    class LogThatRefuses(MemoryLog):
        def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
            seen.append((loop.phase, loop.message))
            if refused.is_set():
                raise Unreachable("no right to the topic")
            return super().poll(max_rows=max_rows, timeout_s=timeout_s)

    loop = Loop("s", SPEC, SumScoring(), lambda: LogThatRefuses(broker, "in", "g"))
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        until(lambda: loop.counters.recoveries > 4)
        polls = len(seen)
        assert {phase for phase, _ in seen[1:polls]} == {WorkerPhase.RECOVERING}
        assert all("no right to the topic" in message for _, message in seen[1:polls])
        refused.clear()
        until(lambda: count(broker, "out") == 1)
        until(lambda: (loop.phase, loop.message) == (WorkerPhase.RUNNING, ""))
    finally:
        loop.stop()
        thread.join(30)
    assert loop.phase is WorkerPhase.STOPPED


def test_a_version_that_fails_everything_opens_the_breaker() -> None:
    broker, broken = make_broker(), threading.Event()
    broken.set()
    for i in range(200):
        put(broker, i)

    def row_errors(rows: object) -> dict[int, EngineFailure]:
        return {j: EngineFailure("boom") for j in range(len(rows))} if broken.is_set() else {}  # type: ignore[arg-type]

    with running(broker, SumScoring(row_errors=row_errors)) as loop:
        until(lambda: loop.breaker.open and loop.counters.retries > 3)
        assert loop.phase is WorkerPhase.HOLDING
        assert "circuit open" in loop.message
        assert count(broker, "dead") < SPEC.breaker_rows
        broken.clear()
        until(lambda: count(broker, "out") + count(broker, "dead") == 200)
        assert not loop.breaker.open


def test_two_workers_share_and_a_worker_that_comes_late_doubles_nothing() -> None:
    broker = make_broker()
    for i in range(300):
        put(broker, i)
    with running(broker, SumScoring()) as first:
        until(lambda: count(broker, "out") > 20)
        with running(broker, SumScoring()):
            until(lambda: count(broker, "out") >= 300)
    assert first.phase is WorkerPhase.STOPPED
    assert [sums(broker, 0), sums(broker, 1)] == [list(range(0, 300, 2)), list(range(1, 300, 2))]


class LogThatIsSlow(MemoryLog):
    """One whose commits end once `free` is set; `sizes` gets how many records each brought."""

    def __init__(self, broker: MemoryBroker, free: threading.Event, sizes: list[int]) -> None:
        super().__init__(broker, "in", "g")
        self._free, self._sizes = free, sizes

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        self._sizes.append(sum(map(len, outgoing)))
        future: Future[None] = Future()

        def end() -> None:
            self._free.wait()
            super(LogThatIsSlow, self).commit(outgoing, upto).add_done_callback(lambda done: future.set_result(done.result()))

        threading.Thread(target=end).start()
        return future


def test_while_a_commit_runs_only_what_will_leave_is_kept_and_the_next_takes_all_of_it() -> None:
    broker, free, sizes = make_broker(), threading.Event(), list[int]()
    for i in range(140):
        put(broker, i, b" " * 1000 + orjson.dumps({"x": [i, 0, 0]}))
    loop = Loop("s", SPEC, SumScoring(), lambda: LogThatIsSlow(broker, free, sizes))
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        until(lambda: loop.in_flight_rows == 140 and loop.in_flight_bytes < 140 * 100)
        free.set()
        until(lambda: count(broker, "out") == 140)
    finally:
        free.set()
        loop.stop()
        thread.join(30)
    assert len(sizes) <= 3
    assert sum(sizes) == 140
    assert [sums(broker, 0), sums(broker, 1)] == [list(range(0, 140, 2)), list(range(1, 140, 2))]


def test_what_a_topic_will_not_take_dies_and_a_letter_too_large_is_cut() -> None:
    broker = make_broker()
    broker.limits = {"out": TopicLimits(600), "dead": TopicLimits(2500)}
    put(broker, 0)
    body = orjson.dumps({"x": [2, 0, 0]})
    broker.append("in", 0, Stored(b"k", body, (("trace", b"t" * 500),), 5))
    broker.append("in", 0, Stored(b"k", b"{" * 3000, (("trace", b"t"),), 6))
    put(broker, 4)
    with running(broker, SumScoring()):
        until(lambda: count(broker, "out") == 2 and count(broker, "dead") == 2)
    assert sums(broker, 0) == [0.0, 4.0]
    whole, shortened = broker.topics["dead"][0]
    assert whole.value == body
    assert dict(whole.headers)["__connect.errors.stage"] == b"KAFKA_PRODUCE"
    assert b"600 bytes" in (dict(whole.headers)["__connect.errors.exception.message"] or b"")
    assert shortened.value is None
    assert dict(shortened.headers)["headrace.value_bytes"] == b"3000"
    assert "trace" not in dict(shortened.headers)
    assert dict(shortened.headers)["__connect.errors.offset"] == b"2"


def test_events_come_in_and_go_out_as_cloudevents() -> None:
    broker = make_broker()
    about = [(f"ce_{name}", b"given") for name in ("specversion", "id", "source", "type")]
    broker.append("in", 0, Stored(b"k", orjson.dumps({"x": [1, 2, 3]}), (*about, ("trace", b"t")), 5))
    broker.append("in", 0, Stored(b"k", orjson.dumps({"x": [1, 2, 3]}), (("trace", b"t"),), 6))
    spec = SPEC.model_copy(
        update={
            "input": SPEC.input.model_copy(update={"envelope": InputEnvelope.CLOUDEVENTS}),
            "output": SPEC.output.model_copy(update={"envelope": OutputEnvelope.STRUCTURED}),
        }
    )
    with running(broker, SumScoring(), spec):
        until(lambda: count(broker, "out") == 1 and count(broker, "dead") == 1)
    (answer,) = broker.topics["out"][0]
    event = orjson.loads(answer.value or b"")
    assert (event["id"], event["data"]) == ("in/0/0", {"sum": [6.0]})
    names = [name for name, _ in answer.headers]
    assert "ce_id" not in names
    assert dict(answer.headers)["trace"] == b"t"
    assert dict(answer.headers)["content-type"] == b"application/cloudevents+json; charset=utf-8"
    assert b"ce_specversion" in (dict(broker.topics["dead"][0][0].headers)["__connect.errors.exception.message"] or b"")


@pytest.mark.parametrize(
    "instead", [(503, b"{}"), (404, b"<html>"), (200, b"<html>"), (200, b""), (200, b"[]"), (200, b'{"id": true}')]
)
def test_a_registry_that_is_away_or_answers_rubbish_holds_the_stream_and_nothing_dies(instead: tuple[int, bytes]) -> None:
    broker = make_broker()
    with schema_registry() as registry:
        registry.instead = instead
        number = registry.register("in-value", {"type": "object"}, "JSON")
        for i in range(10):
            put(broker, i, b"\x00" + number.to_bytes(4, "big") + orjson.dumps({"x": [i, 0, 0]}))
        spec = SPEC.model_copy(
            update={
                "input": SPEC.input.model_copy(update={"format": Format.JSON_SCHEMA}),
                "output": SPEC.output.model_copy(update={"format": Format.AVRO}),
                "registry": Registry(url=registry.url),
            }
        )
        with running(broker, SumScoring(), spec) as loop:
            until(lambda: loop.counters.retries > 1)  # its answers' schema could not be registered
            registry.instead_of = "/schemas/ids/"
            until(lambda: "/schemas/ids/" in loop.message)
            assert loop.phase is WorkerPhase.HOLDING
            assert f"answers {instead[0]}" in loop.message
            registry.instead = None
            until(lambda: count(broker, "out") == 10)
    assert count(broker, "dead") == 0
