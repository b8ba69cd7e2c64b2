"""One process that drains a topic, as ours does or as barely as it can be done: `python -m bench.stream_worker WAY JOB`.

WAY is `ours` (the product's worker: transactions, dead letters, order, the scorer with a canary under way), `remote` (with the
engines behind Serve handles), `limit` (the same client and codecs in a loop without any safety) or `limit_same_records` (which
also writes the three headers of ours). Ends when every record is done, or when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer, Producer
from kafka import KafkaConsumer, KafkaProducer

from cluster.control_plane import Told
from cluster.errors import NotFound
from cluster.fleet.serving import Serving, TransportKind
from cluster.routing.routes import Route, RouteTable, Stamp, Target
from cluster.signature import Signature
from consumers.stream.codecs.formats import make_decoder, make_encoder
from consumers.stream.counters import Counters
from consumers.stream.kafka.clients import chosen_client, open_log
from consumers.stream.kafka.librdkafka.config import BATCH_BYTES, FULL_QUEUE_WAIT_MS, LINGER_MS
from consumers.stream.log.port import Header, Member
from consumers.stream.loop import Loop
from consumers.stream.outgoing.answers import MODEL_HEADER, PREDICTION_HEADER, VERSION_HEADER
from consumers.stream.sealed.book import SubjectBook
from consumers.stream.spec import Client, StreamSpec
from deployments.artifacts.fetch import localize
from deployments.drift.drift_sample import DriftSample
from deployments.engines.load import load_engine
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.traces.opening import open_tracer
from deployments.observe.traces.settings import TraceSettings
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.serving.collector import spare_collections

CANARY_WEIGHT = 1_000
Answer = Callable[[list[bytes]], list[bytes]]


@dataclass(frozen=True, slots=True)
class Job:
    """What to drain. `artifact_uri` is scored as two versions, of which the second gets a tenth of the keys. One
    in a hundred events is traced where `traces` says where to."""

    document: str
    brokers: str
    rows: int
    artifact_uri: str
    digest: str
    signature: str
    rank: int = 0
    ray: str = ""
    traces: str = ""

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Job:
        """What `dump` made."""
        return cls(**json.loads(text))


class HeldTable:
    """A control plane whose table never changes: a canary at ten percent, or stable alone."""

    def __init__(self, job: Job, model: str, *, canary: bool = True) -> None:
        signature = Signature.model_validate_json(job.signature)
        targets = {v: Target(v, f"{model}--v{v}", job.artifact_uri, job.digest, "onnx", signature) for v in (1, 2)}
        serving = Serving(transport=TransportKind.EMBEDDED)
        route = Route(model, 1, serving, targets)
        if canary:
            route = replace(route, candidate=2, weight=CANARY_WEIGHT, stage="r1.1", salt=7)
        self.table = RouteTable(1, {model: route})

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        if after >= self.table.stamp:
            await asyncio.sleep(timeout_s)
        return self.table

    async def push(self, told: Told) -> None:
        """Evidence is made and handed over, as in production; nobody counts it here."""

    async def call(self, command: str, payload: dict[str, object]) -> dict[str, object]:
        raise NotFound(f"no commands here: {command} {payload}", where="bench", remedy="use a controller")


def ours(job: Job) -> None:
    """The product's worker."""
    spec = StreamSpec.model_validate_json(job.document)
    work(job, spec, lambda: RoutedScorer(HeldTable(job, spec.model)))


def remote(job: Job) -> None:
    """The product's worker as a Ray driver, with the versions that the controller serves."""
    import ray

    from deployments.control.client import connect

    ray.init(address=job.ray, namespace="headrace", log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
    work(job, StreamSpec.model_validate_json(job.document), lambda: RoutedScorer(connect()))


def work(
    job: Job,
    spec: StreamSpec,
    make_scorer: Callable[[], RoutedScorer],
    meters: Meters | None = None,
    payloads: PayloadLog | None = None,
    drift: DriftSample | None = None,
    subjects: SubjectBook | None = None,
) -> Counters:
    """Until all rows are in, or standard input ends. What was done. The rest is the worker's own: see Loop."""
    group, ended = spec.group_of("bench"), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with ScorerThread(make_scorer) as scoring:
        member = Member(group, f"{group}-{job.rank}", f"{group}-{job.rank}")
        tracer = open_tracer(TraceSettings(job.traces, 0.01) if job.traces else None, meters or Meters(), "headrace-stream")
        loop = Loop(
            "bench",
            spec,
            scoring,
            lambda: open_log(spec, job.brokers, member),
            (),
            meters,
            payloads,
            tracer=tracer,
            drift=drift,
            subjects=subjects,
        )
        spare_collections()  # once all is set up, as the product does
        worker = threading.Thread(target=loop.run)
        worker.start()
        while worker.is_alive() and loop.counters.rows_in < job.rows and not ended.is_set():
            worker.join(0.05)
        loop.stop()
        worker.join()
    return loop.counters


def limit(job: Job, *, same_records: bool = False) -> None:
    """Poll, decode, score, encode, send: at least once, no dead letters, no split; headers only for `same_records`."""
    spec = StreamSpec.model_validate_json(job.document)
    signature = Signature.model_validate_json(job.signature)
    engine = load_engine(Path(localize(job.artifact_uri, job.digest)))
    decoder, encoder = make_decoder(signature, spec.input), make_encoder(signature, spec.output)

    def answer(values: list[bytes]) -> list[bytes]:
        return encoder.encode(engine.score(decoder.decode(values).tensors))

    with_client = limit_rdkafka if chosen_client(spec.client) is Client.LIBRDKAFKA else limit_kafka_python
    with_client(job, spec, answer, fixed_headers(spec) if same_records else None)


def fixed_headers(spec: StreamSpec) -> list[Header]:
    """Of what ours writes, what does not change."""
    return [(MODEL_HEADER, spec.model.encode()), (VERSION_HEADER, b"1")]


def prediction(topic: str, number: int, offset: int) -> Header:
    """What changes from record to record."""
    return PREDICTION_HEADER, f"{topic}/{number}/{offset}".encode()


def limit_rdkafka(job: Job, spec: StreamSpec, answer: Answer, fixed: list[Header] | None) -> None:
    """With the same settings as the product's."""
    consumer = Consumer(
        {
            "bootstrap.servers": job.brokers,
            "group.id": spec.group_of("bench"),
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.max.bytes": 16 * 1024 * 1024,
            "max.partition.fetch.bytes": 4 * 1024 * 1024,
            "fetch.queue.backoff.ms": FULL_QUEUE_WAIT_MS,
            "check.crcs": True,
        }
    )
    consumer.subscribe([spec.input.topic])
    producer = Producer({"bootstrap.servers": job.brokers, "linger.ms": LINGER_MS, "batch.size": BATCH_BYTES})
    done, topic = 0, spec.output.topic
    while done < job.rows:
        messages = consumer.consume(spec.max_batch_rows, 0.0) or consumer.consume(1, 0.2)
        messages = [message for message in messages if message.error() is None]
        if not messages:
            continue
        for message, value in zip(messages, answer([message.value() for message in messages]), strict=True):
            if fixed is None:
                producer.produce(topic, value, message.key(), message.partition())
            else:
                headers = [*fixed, prediction(message.topic(), message.partition(), message.offset())]
                producer.produce(topic, value, message.key(), message.partition(), headers=headers)
        consumer.commit(asynchronous=True)
        producer.poll(0)
        done += len(messages)
    producer.flush(60)
    consumer.close()


def limit_kafka_python(job: Job, spec: StreamSpec, answer: Answer, fixed: list[Header] | None) -> None:
    """With the same settings as the product's."""
    consumer = KafkaConsumer(
        spec.input.topic,
        bootstrap_servers=job.brokers,
        group_id=spec.group_of("bench"),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=spec.max_batch_rows,
        fetch_max_bytes=16 * 1024 * 1024,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    producer = KafkaProducer(bootstrap_servers=job.brokers, linger_ms=2, batch_size=256 * 1024)
    done = 0
    while done < job.rows:
        polled = consumer.poll(timeout_ms=200)
        records = [record for each in polled.values() for record in each]
        if not records:
            continue
        for record, value in zip(records, answer([record.value for record in records]), strict=True):
            headers = None if fixed is None else [*fixed, prediction(record.topic, record.partition, record.offset)]
            producer.send(spec.output.topic, value, record.key, headers, record.partition)
        consumer.commit_async()
        done += len(records)
    producer.flush()
    consumer.commit()


def main() -> None:
    way, job = sys.argv[1], Job.load(sys.argv[2])
    began_s = time.monotonic()
    ways = {"ours": ours, "remote": remote, "limit": limit}
    ways["limit_same_records"] = partial(limit, same_records=True)
    ways[way](job)
    print(json.dumps({"wall_s": time.monotonic() - began_s, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
