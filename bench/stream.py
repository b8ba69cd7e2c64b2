"""`python -m bench.stream [--quick] [--json]`: a stream's worker against a bare loop with the same client and codecs.

The same events, 28x28 floats each in 4 partitions, are drained by a fresh group into a fresh topic, by ours and by the limit in
turn. A rate is what was appended to the output per second, by the broker's own clock, the first and last tenth left out. Ours
works exactly once with a canary under way; the limit promises nothing. Every answer is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from rich.console import Console
from rich.table import Table

from bench.batch_data import Case, write_model
from bench.stream_worker import Job
from consumers.stream.spec import Format, Guarantee, Input, Output, StreamSpec, Topic
from headrace.local.broker import start_broker, stop_broker
from headrace.local.ports import free_port

WIDTH, PARTITIONS = 784, 4
WAYS = ("limit", "ours")
NAMES = {Format.JSON: "stream.json.embedded", Format.RAW: "stream.binary.embedded"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the answer. `ratio` is value over reference."""

    name: str
    value: float
    reference: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.value / self.reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds: under five minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--events", type=int, help="how many events to drain")
    parser.add_argument("--rounds", type=int, help="how often ours and the limit take turns")
    options = parser.parse_args()
    events = options.events or (20_000 if options.quick else 60_000)
    rounds = options.rounds or (2 if options.quick else 5)
    with tempfile.TemporaryDirectory() as folder, broker_in(Path(folder)) as brokers:
        figures = [measure(brokers, Path(folder), format_, events, rounds) for format_ in (Format.JSON, Format.RAW)]
    if options.json:
        for one in figures:
            print(json.dumps(asdict(one) | {"ratio": one.ratio}))
        return
    table = Table("figure", "ours", "limit", "ratio", "unit")
    for one in figures:
        table.add_row(one.name, f"{one.value:,.0f}", f"{one.reference:,.0f}", f"{one.ratio:.2f}", one.unit)
    Console().print(table)


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


def measure(brokers: str, folder: Path, format_: Format, events: int, rounds: int) -> Figure:
    """Medians of ours and of the limit over the same events."""
    pinned = write_model(Case("stream", files=0, rows_a_file=0, width=WIDTH, layers=(128, 10)), folder / format_)
    topic = f"bench-in-{uuid.uuid4().hex[:8]}"
    make_topics(brokers, topic)
    fill(brokers, topic, events, VALUES[format_])
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            tag = uuid.uuid4().hex[:8]
            spec = StreamSpec(
                model="bench",
                input=Input(topic=topic, format=format_),
                output=Output(topic=f"bench-out-{tag}"),
                dead_letters=Topic(topic=f"bench-dead-{tag}"),
                guarantee=Guarantee.EXACTLY_ONCE,
                group=f"bench-{tag}",
            )
            make_topics(brokers, spec.output.topic, spec.dead_letters.topic)
            signature = pinned.signature.model_dump_json()
            job = Job(spec.model_dump_json(), brokers, events, pinned.artifact_uri, pinned.digest, signature)
            subprocess.run([sys.executable, "-m", "bench.stream_worker", way, job.dump()], check=True, stdout=subprocess.DEVNULL)
            rates[way].append(output_rate(brokers, spec.output.topic, events))
    return Figure(NAMES[format_], statistics.median(rates["ours"]), statistics.median(rates["limit"]), "events/s")


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
    values = [value(row) for row in np.random.default_rng(0).random((256, WIDTH), dtype=np.float32)]
    producer = KafkaProducer(bootstrap_servers=brokers, linger_ms=20, batch_size=512 * 1024)
    for i in range(events):
        producer.send(topic, values[i % len(values)], b"key %d" % (i % 1000), None, i % PARTITIONS)
    producer.close()


def output_rate(brokers: str, topic: str, events: int) -> float:
    """Answers a second, over the middle eight tenths. Raises where they are not as many as the events."""
    consumer = KafkaConsumer(bootstrap_servers=brokers, isolation_level="read_committed", auto_offset_reset="earliest")
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        times_ms: list[int] = []
        quiet_s = time.monotonic() + 10
        while len(times_ms) < events and time.monotonic() < quiet_s:
            for records in consumer.poll(timeout_ms=500).values():
                times_ms += [record.timestamp for record in records]
                quiet_s = time.monotonic() + 10
    finally:
        consumer.close()
    if len(times_ms) != events:
        raise AssertionError(f"{len(times_ms)} answers to {events} events")
    times_ms.sort()
    first, last = events // 10, events - events // 10
    return (last - first) / ((times_ms[last - 1] - times_ms[first]) / 1000)


if __name__ == "__main__":
    main()
