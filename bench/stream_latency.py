"""From an event's creation to its answer at a read_committed reader, at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from deployments.serving.collector import spare_collections

RATE = 500
WARM_S = 4.0


def publish(brokers: str, topic: str, values: Sequence[bytes], seconds: float, partitions: int) -> int:
    """So many seconds of events, each with its creation time in its header, evenly spaced. How many there were."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0})
    count, began_s = int(RATE * seconds), time.perf_counter()
    for i in range(count):
        wait_s = began_s + i / RATE - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        now = str(time.time()).encode()
        producer.produce(topic, values[i % len(values)], b"key %d" % (i % 1000), i % partitions, headers=[("made", now)])
        producer.poll(0)
    producer.flush(30)
    return count


def latencies_ms(brokers: str, given: str, answered: str, values: Sequence[bytes], seconds: float, partitions: int) -> np.ndarray:
    """Publishes and reads at the same time; raises where an answer is missing. The first seconds don't count."""
    spare_collections()  # one of all that is imported here stops publisher and reader for a tenth of a second
    settings = {"bootstrap.servers": brokers, "group.id": f"latency-{answered}", "isolation.level": "read_committed"}
    reader = Consumer(settings)
    reader.assign([TopicPartition(answered, number, 0) for number in range(partitions)])
    took: list[tuple[float, float]] = []
    sent: list[int] = []
    publisher = threading.Thread(target=lambda: sent.append(publish(brokers, given, values, seconds, partitions)))
    publisher.start()
    quiet_s = time.monotonic() + 60
    while (not sent or len(took) < sent[0]) and time.monotonic() < quiet_s:
        for message in reader.consume(1, 0.05) + reader.consume(500, 0.0):
            made = next(float(value) for name, value in reversed(message.headers()) if name == "made")
            took.append((made, time.time() - made))
            quiet_s = time.monotonic() + 60
    publisher.join()
    reader.close()
    if len(took) != sent[0]:
        raise AssertionError(f"{len(took)} answers to {sent[0]} events")
    first = min(made for made, _ in took)
    return np.array([one for made, one in took if made - first > WARM_S]) * 1000
