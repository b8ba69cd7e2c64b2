"""`python -m bench.stream [--quick] [--json] [--client C] [--only NAME]`: a stream's worker, and what the same costs elsewhere.

The same events, 28x28 floats each in 4 partitions, are drained by a fresh group into a fresh topic, by ours and by the reference
in turn, once the broker is warm. A rate is what was appended to the output per second, by the broker's own clock, the first and
last tenth left out. Two replicas share the partitions only some seconds after they began: there it is the middle third of more
events. Ours works exactly once with a canary under way; every answer is counted.

| figure | reference |
|---|---|
| `stream.FORMAT.embedded` | the limit: one process with the same client and decoder, and no safety at all |
| `stream.FORMAT.embedded.same_records` | the limit, but its records carry the three headers of ours: what safety alone costs |
| `stream.json.remote` | ours, embedded |
| `stream.json.two_replicas` | ours, one replica |
| `stream.FORMAT.rival` | bytewax, micro-batches of 256, at least once (extra `bench`) |
| `stream.latency.GUARANTEE.p50`, `.p99` | Kafka Streams at the same guarantee, as measured elsewhere; 500 events/s |
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from kafka.admin import KafkaAdminClient
from rich.console import Console

from bench.batch_data import Case, Pinned, write_model
from bench.figures import Figure, show
from bench.stream_latency import latencies_ms
from bench.stream_worker import Job
from consumers.stream.spec import Client, Format, Guarantee, StreamInput, StreamOutput, StreamSpec, Topic
from headrace.local.broker import start_broker, stop_broker
from headrace.local.ports import free_port

WIDTH, PARTITIONS, KEYS = 784, 4, 1000
WORDS = {Format.JSON: "json", Format.RAW: "binary"}
# p50 and p99 in ms, of 500 events/s in a record at a time: docs of the issue; another machine of the same kind.
KAFKA_STREAMS = {Guarantee.AT_LEAST_ONCE: (25.0, 44.0), Guarantee.EXACTLY_ONCE: (74.0, 137.0)}
# Ours writes what it has scored with each commit, ten times a second under a backlog: a rate needs some seconds to be one.
EVENTS = {Format.JSON: 240_000, Format.RAW: 1_000_000}
QUICK_EVENTS = {Format.JSON: 150_000, Format.RAW: 600_000}
WARM_ROUNDS = 3
TWO_REPLICAS_EVENTS = 400_000
PYTHON = sys.executable


@dataclass
class Bench:
    """What all measurements share."""

    brokers: str
    pinned: Pinned
    events: Mapping[Format, int]
    rounds: int
    client: Client
    screen: Console
    ray: str = ""
    warm: bool = False
    traces: str = ""  # where the way `traced` sends them
    others: Mapping[str, Callable[[Job], list[str]]] = field(default_factory=dict)  # more ways: the commands of their workers
    left_out: float = 0.1  # this share of the answers, the first as well as the last, is not measured

    def warm_up(self, topic: str, format_: Format) -> None:
        """Nothing is measured of a broker's first half minute, in which it compiles itself beside its work."""
        if self.warm:
            return
        for _ in range(WARM_ROUNDS):
            self.rate("ours", topic, format_)
        self.warm = True

    def spec(self, topic: str, format_: Format, guarantee: Guarantee = Guarantee.EXACTLY_ONCE) -> StreamSpec:
        """A fresh group into fresh topics."""
        tag = uuid.uuid4().hex[:8]
        spec = StreamSpec(
            model="bench",
            input=StreamInput(topic=topic, format=format_),
            output=StreamOutput(topic=f"bench-out-{tag}", format=format_),
            dead_letters=Topic(topic=f"bench-dead-{tag}"),
            guarantee=guarantee,
            client=self.client,
            group=f"bench-{tag}",
        )
        make_topics(self.brokers, spec.output.topic, spec.dead_letters.topic)
        return spec

    def job(self, spec: StreamSpec) -> Job:
        """The work of one process."""
        signature = self.pinned.signature.model_dump_json()
        document = spec.model_dump_json()
        events = self.events[spec.input.format]
        return Job(document, self.brokers, events, self.pinned.artifact_uri, self.pinned.digest, signature, 0, self.ray)

    def rate(self, way: str, topic: str, format_: Format) -> float:
        """Answers a second of one way."""
        spec = self.spec(topic, format_)
        job = self.job(spec)
        two = [worker("ours", replace(job, rank=rank)) for rank in range(2)]
        several = {"two_replicas": two, "traced": [worker("ours", replace(job, traces=self.traces))]}
        ways = [self.others[way](job)] if way in self.others else several.get(way) or [worker(way, job)]
        running = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for each in ways]
        try:
            found = output_rate(self.brokers, spec.output.topic, job.rows, running, self.left_out)
        finally:
            for process in running:
                process.communicate()  # which ends its input
        if any(process.returncode for process in running):
            raise SystemExit(f"{way} failed")
        return found

    def turns(self, name: str, way: str, reference: str, topic: str, format_: Format) -> Figure:
        """Medians of both, in turn."""
        self.warm_up(topic, format_)
        rates: dict[str, list[float]] = {way: [], reference: []}
        for _ in range(self.rounds):
            for each, found in rates.items():
                found.append(self.rate(each, topic, format_))
        for each, found in rates.items():
            self.screen.print(f"{name}: {each}: {', '.join(f'{rate:,.0f}' for rate in found)} events/s")
        return Figure(name, statistics.median(rates[way]), statistics.median(rates[reference]), "events/s")

    def latency(self, guarantee: Guarantee, seconds: float) -> list[Figure]:
        """p50 and p99 at a steady rate of JSON events."""
        topic = f"bench-in-{uuid.uuid4().hex[:8]}"
        make_topics(self.brokers, topic)
        spec = self.spec(topic, Format.JSON, guarantee)
        values = [json_value(row) for row in np.random.default_rng(0).random((256, WIDTH), dtype=np.float32)]
        command = worker("ours", replace(self.job(spec), rows=2**60))
        running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            took_ms = latencies_ms(self.brokers, topic, spec.output.topic, values, seconds, PARTITIONS)
        finally:
            running.communicate()
        name, unit = f"stream.latency.{guarantee}", "ms (lower is better)"
        p50, p99 = np.percentile(took_ms, [50, 99])
        known = KAFKA_STREAMS[guarantee]
        return [Figure(f"{name}.p50", float(p50), known[0], unit), Figure(f"{name}.p99", float(p99), known[1], unit)]


def worker(way: str, job: Job) -> list[str]:
    """The command of one process."""
    if way == "rival":
        return [PYTHON, "-m", "bench.stream_rival", job.dump()]
    return [PYTHON, "-m", "bench.stream_worker", way, job.dump()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds: under five minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--events", type=int, help="how many events of each format to drain")
    parser.add_argument("--rounds", type=int, help="how often ours and the reference take turns")
    parser.add_argument("--client", type=Client, default=Client.AUTO, help="auto, kafka-python or librdkafka")
    parser.add_argument("--only", default="", help="only figures whose name holds this")
    options = parser.parse_args()
    events = QUICK_EVENTS if options.quick else EVENTS
    if options.events:
        events = dict.fromkeys(events, options.events)
    rounds = options.rounds or (1 if options.quick else 5)
    with prepared(events, rounds, Console(stderr=True), options.client) as bench:
        show(list(measured(bench, options.only, 12.0 if options.quick else 30.0)), as_json=options.json)


@contextmanager
def prepared(events: Mapping[Format, int], rounds: int, screen: Console, client: Client = Client.AUTO) -> Iterator[Bench]:
    """A broker and a model."""
    with tempfile.TemporaryDirectory() as folder, broker_in(Path(folder)) as brokers:
        pinned = write_model(Case("stream", files=0, rows_a_file=0, width=WIDTH, layers=(128, 10)), Path(folder) / "model")
        yield Bench(brokers, pinned, events, rounds, client, screen)


def measured(bench: Bench, only: str, latency_s: float) -> Iterator[Figure]:
    """All figures whose names hold `only`."""
    pairs = [(f"stream.{word}.embedded", "ours", "limit", format_) for format_, word in WORDS.items()]
    pairs += [(f"stream.{word}.embedded.same_records", "ours", "limit_same_records", format_) for format_, word in WORDS.items()]
    if importlib.util.find_spec("bytewax") is not None:
        pairs += [(f"stream.{word}.rival", "ours", "rival", format_) for format_, word in WORDS.items()]
    topics: dict[Format, str] = {}
    for name, way, reference, format_ in pairs:
        if only in name:
            yield bench.turns(name, way, reference, topic_of(bench, topics, format_), format_)
    if only in (name := "stream.json.two_replicas"):
        longer = replace(bench, events={Format.JSON: TWO_REPLICAS_EVENTS}, left_out=1 / 3)
        yield longer.turns(name, "two_replicas", "ours", topic_of(longer, {}, Format.JSON), Format.JSON)
    latencies = [guarantee for guarantee in Guarantee if only in f"stream.latency.{guarantee}"]
    if latencies:
        bench.warm_up(topic_of(bench, topics, Format.JSON), Format.JSON)
    for guarantee in latencies:
        yield from bench.latency(guarantee, latency_s)
    if only in "stream.json.remote":
        yield remote(bench, topic_of(bench, topics, Format.JSON))


def topic_of(bench: Bench, topics: dict[Format, str], format_: Format) -> str:
    """The filled topic of this format; filled at the first call."""
    if format_ not in topics:
        topics[format_] = f"bench-in-{uuid.uuid4().hex[:8]}"
        make_topics(bench.brokers, topics[format_])
        fill(bench.brokers, topics[format_], bench.events[format_], VALUES[format_])
    return topics[format_]


def remote(bench: Bench, topic: str) -> Figure:
    """Engines in Serve replicas against engines in the worker."""
    from bench.online import begin_canary
    from bench.service import running

    with running() as service:
        import ray

        begin_canary(service, "bench", "remote")
        bench.ray = ray.get_runtime_context().gcs_address
        return bench.turns("stream.json.remote", "remote", "ours", topic, Format.JSON)


@contextmanager
def broker_in(folder: Path) -> Iterator[str]:
    """A broker of our own, unless KAFKA_BOOTSTRAP_SERVERS names one."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headrace" / "jars"
    try:
        yield start_broker(folder / "kafka", port=free_port(), cache=cache).bootstrap
    finally:
        stop_broker(folder / "kafka")


def json_value(row: np.ndarray) -> bytes:
    """7.8 kB: numbers of four digits."""
    return orjson.dumps({"x": [round(float(number), 4) for number in row]})


def raw_value(row: np.ndarray) -> bytes:
    """3.1 kB."""
    return row.astype("<f4").tobytes()


VALUES: dict[Format, Callable[[np.ndarray], bytes]] = {Format.JSON: json_value, Format.RAW: raw_value}


def make_topics(brokers: str, *names: str) -> None:
    """With the broker's own times on the records: when each was appended."""
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    configs = {"message.timestamp.type": "LogAppendTime"}
    try:
        admin.create_topics({name: {"num_partitions": PARTITIONS, "configs": configs} for name in names}, wait_for_metadata=True)
    finally:
        admin.close()


def fill(brokers: str, topic: str, events: int, value: Callable[[np.ndarray], bytes]) -> None:
    """The events, keyed, evenly over the partitions."""
    fill_with(brokers, topic, events, [value(row) for row in np.random.default_rng(0).random((256, WIDTH), dtype=np.float32)])


def fill_with(brokers: str, topic: str, events: int, values: Sequence[bytes]) -> None:
    """These values in turn, as `fill` does."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 20, "batch.size": 512 * 1024})
    for i in range(events):
        while True:
            try:
                producer.produce(topic, values[i % len(values)], b"key %d" % (i % KEYS), i % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def output_rate(brokers: str, topic: str, events: int, running: Sequence[subprocess.Popen[bytes]], left_out: float) -> float:
    """Answers a second, without that share of them at each end. Raises where they are not as many as the events, or a process
    failed.

    They are read once they are out: a reader beside the work would take the cores that are measured.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": f"reads-{topic}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    partitions = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)]
    try:
        written, quiet_s = 0, time.monotonic() + 60
        while written < events and time.monotonic() < quiet_s and not any(process.poll() for process in running):
            time.sleep(0.2)
            try:
                ends = sum(consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions)
            except KafkaException:  # a topic that was just made has no leader everywhere yet
                continue
            if ends > written:
                written, quiet_s = ends, time.monotonic() + 30
        consumer.assign(partitions)
        times_ms: list[int] = []
        quiet_s = time.monotonic() + 10
        while len(times_ms) < events and time.monotonic() < quiet_s and not any(process.poll() for process in running):
            if messages := consumer.consume(10_000, 0.2):
                times_ms += [message.timestamp()[1] for message in messages]
                quiet_s = time.monotonic() + 10
    finally:
        consumer.close()
    if len(times_ms) != events:
        raise AssertionError(f"{len(times_ms)} answers to {events} events")
    times_ms.sort()
    first = int(events * left_out)
    last = events - first
    return (last - first) / ((times_ms[last - 1] - times_ms[first]) / 1000)


if __name__ == "__main__":
    main()
