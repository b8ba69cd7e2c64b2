"""The demo's callers: a Kafka producer, a reader that counts what came out, and an HTTP client that never stops asking."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
import numpy.typing as npt
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

# What real pipelines send by mistake. Each must end as one dead letter and hurt no neighbour.
MALFORMED: tuple[bytes, ...] = (
    b"not json at all",
    b'{"image": [0.1, 0.2, 0.3]}',
    b'{"pixels": [0.0]}',
    b'{"image": "seven"}',
    b'{"image": null}',
    b'{"image": [[[[',
    b"",
    b"\xff\xfe\x00",
    orjson.dumps({"image": [0.5] * 783 + ["x"]}),
    b'{"image": [' + b"NaN," * 783 + b"NaN]}",
)


@dataclass(frozen=True, slots=True)
class Digits:
    """Held-out digits: `rows` float32 [n, 784] and their labels [n]."""

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def events(self) -> list[bytes]:
        """Each digit as a JSON event."""
        return [orjson.dumps({"image": [round(float(pixel), 4) for pixel in row]}) for row in self.rows]


class Publisher:
    """Sends keyed events to the input topic. A good event's key is `<run>-good-<number>-<row of the digit>`."""

    def __init__(self, brokers: str, topic: str, digits: Digits, run: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=brokers, linger_ms=20, batch_size=512 * 1024, compression_type="lz4")
        self._topic = topic
        self._run = run
        self._events = digits.events()
        self.good = 0
        self.bad = 0

    def send_good(self, count: int) -> None:
        """Sends the next `count` digits, round and round."""
        for _ in range(count):
            row = self.good % len(self._events)
            self._producer.send(self._topic, key=f"{self._run}-good-{self.good}-{row}".encode(), value=self._events[row])
            self.good += 1

    def send_bad(self, count: int) -> None:
        """Sends `count` malformed events."""
        for _ in range(count):
            value = MALFORMED[self.bad % len(MALFORMED)]
            self._producer.send(self._topic, key=f"{self._run}-bad-{self.bad}".encode(), value=value)
            self.bad += 1

    def flush(self) -> None:
        """Waits until the broker has everything."""
        self._producer.flush(timeout=60)

    def close(self) -> None:
        """Flushes and lets go of the connection."""
        self.flush()
        self._producer.close()


@dataclass(slots=True)
class Tally:
    """What was read from the output topic and the dead letters."""

    scored: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rows_by_version: Counter[str] = field(default_factory=Counter)
    right_by_version: Counter[str] = field(default_factory=Counter)

    @property
    def duplicates(self) -> int:
        """Events that came out more than once."""
        return sum(times - 1 for times in (self.scored + self.dead).values())

    def accuracy(self) -> dict[str, float]:
        """Share of right answers, by version."""
        return {version: self.right_by_version[version] / rows for version, rows in sorted(self.rows_by_version.items())}


class Reader:
    """Reads both topics as any downstream consumer would: committed records only. Keys of other runs are passed over."""

    def __init__(self, brokers: str, output_topic: str, dead_topic: str, labels: npt.NDArray[np.int64], run: str) -> None:
        self._dead, self._labels, self._run = dead_topic, labels, run.encode()
        self._consumer = KafkaConsumer(
            bootstrap_servers=brokers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=5000,
        )
        partitions = [TopicPartition(topic, p) for topic in (output_topic, dead_topic) for p in self._partitions(topic)]
        self._consumer.assign(partitions)
        self._consumer.seek_to_beginning(*partitions)
        self.tally = Tally()

    def _partitions(self, topic: str, timeout_s: float = 60) -> list[int]:
        """The stream makes its topics when it first runs, which may be a moment from now."""
        deadline = time.monotonic() + timeout_s
        while not (found := self._consumer.partitions_for_topic(topic)):
            if time.monotonic() > deadline:
                raise SystemExit(f"topic {topic} did not appear within {timeout_s:g} s")
            time.sleep(0.2)
        return sorted(found)

    def read_until(self, good: int, bad: int, *, timeout_s: float) -> Iterator[int]:
        """Reads on until that many distinct events are there or the time is over; yields how many have been read."""
        deadline = time.monotonic() + timeout_s
        while (len(self.tally.scored) < good or len(self.tally.dead) < bad) and time.monotonic() < deadline:
            self._take(timeout_ms=500)
            yield len(self.tally.scored) + len(self.tally.dead)
        # What would be a duplicate arrives after its first copy, so look once more.
        self._take(timeout_ms=1500)

    def _take(self, timeout_ms: int) -> None:
        for partition, records in self._consumer.poll(timeout_ms=timeout_ms).items():
            for record in records:
                if not (record.key or b"").startswith(self._run):
                    continue
                headers = {name: (value or b"").decode() for name, value in record.headers}
                key = record.key.decode()
                if partition.topic == self._dead:
                    self.tally.dead[key] += 1
                    self.tally.reasons[headers.get("__connect.errors.exception.message", "no reason given")] += 1
                else:
                    self._count_scored(key, headers, record.value)

    def _count_scored(self, key: str, headers: dict[str, str], value: bytes) -> None:
        self.tally.scored[key] += 1
        version = headers["headrace.version"]
        scores = orjson.loads(value)["probabilities"]
        self.tally.rows_by_version[version] += 1
        self.tally.right_by_version[version] += int(np.argmax(scores) == self._labels[int(key.rsplit("-", 1)[1])])

    def close(self) -> None:
        """Lets go of the connection."""
        self._consumer.close()


class HttpCaller:
    """Asks one digit after the other over HTTP in a thread of its own, and counts every answer."""

    def __init__(self, url: str, model: str, digits: Digits) -> None:
        self._url = f"{url}/v2/models/{model}/infer"
        self._digits = digits
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http-caller")
        self.calls = 0
        self.failures: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()

    def __enter__(self) -> HttpCaller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.wait(0.02):
                row = self._digits.rows[self.calls % len(self._digits.rows)]
                body = {"inputs": [{"name": "image", "shape": [1, 784], "datatype": "FP32", "data": row.tolist()}]}
                self.calls += 1
                try:
                    answer = client.post(self._url, json=body, headers={"x-routing-key": f"caller-{self.calls}"})
                except httpx.HTTPError as error:
                    self.failures[f"{type(error).__name__}: {error}"] += 1
                    continue
                if answer.status_code == 200:
                    self.versions[answer.json()["model_version"]] += 1
                else:
                    self.failures[f"{answer.status_code}: {answer.text[:200]}"] += 1


class SteadyProducer:
    """Keeps publishing at a steady rate in a thread of its own, so that a rollout happens under load."""

    def __init__(self, publisher: Publisher, events_per_s: int) -> None:
        self._publisher = publisher
        self._rate = events_per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-producer")

    def __enter__(self) -> SteadyProducer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._publisher.flush()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._publisher.send_good(self._rate // 10)
            if self._publisher.good % (self._rate * 5) < self._rate // 10:
                self._publisher.send_bad(1)
