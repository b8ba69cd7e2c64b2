"""What a container with a model is put through, from within its network: `python -m tests.support.contained WORK`.

WORK is JSON, as `Work` has it. Prints `answered` once the model answers, and what it found, as `Found` has it, in the end.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
from kafka import KafkaConsumer, TopicPartition

from cluster.commands.documents import Apply, FeedDocument
from cluster.commands.feeds import FeedName
from consumers.stream.spec import Format, StreamInput, StreamOutput, StreamSpec, Topic
from deployments.engines.load import load_engine
from deployments.gateway.protocol.proto import inference_pb2 as pb
from headrace.client import ControlClient
from headrace.local.broker import start_broker, stop_broker
from headrace.local.ports import free_port
from tests.support.broker import jar_cache
from tests.support.last_calls import CALLERS, METHOD, Callers, End, calling
from tests.support.models import INPUT, OUTPUT, rows
from tests.support.stream_topics import Topics
from tests.support.waiting import until

HTTP, GRPC = "127.0.0.1:8000", "127.0.0.1:9000"
MODEL, STREAM = "digits", "digits-stream"
PARTITIONS = 2
LIMIT_S = 180.0
BURST = 1_000  # records, four times a second: more than is scored


@dataclass(frozen=True)
class Work:
    """The container's name and pid, its HEADRACE_HOME out here, its model's files, and a folder for the broker."""

    name: str
    pid: int
    home: str
    artifact: str
    folder: str


@dataclass(frozen=True)
class Found:
    """What came of it. `doubled`, `lost` and `uncommitted` count the stream's records; `left` those that it has not taken."""

    interfaces: list[str]
    same_answers: bool
    calls: int
    in_flight: int
    failed: list[str]
    streamed: int
    streamed_after_sigterm: int
    doubled: int
    lost: int
    uncommitted: int
    left: int
    drained_s: float


def main(work: Work) -> Found:
    """Calls, streams, tells it to end in the midst of both, and counts."""
    until(lambda: _by_http() is not None, LIMIT_S)
    sys.stdout.write("answered\n")
    sys.stdout.flush()
    expected = load_engine(Path(work.artifact)).score({INPUT: rows(1, seed=7)})[OUTPUT]
    answers = [_by_http(), _by_grpc()]
    same = all(answer is not None and np.allclose(answer, expected, atol=1e-5) for answer in answers)
    interfaces = [line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]]
    with _broker(Path(work.folder)) as brokers:
        topics = _streaming(work, brokers)
        topics.publish(200)
        topics.check()
        callers = Callers(HTTP, GRPC)
        with calling(callers, [MODEL]), topics.load(BURST):
            until(lambda: all(sum(call.end is End.ANSWERED for call in callers.at(door)) > 50 for door in CALLERS), LIMIT_S)
            until(lambda: topics.published - topics.outputs() > BURST // 4, LIMIT_S)
            streamed, told_s = topics.outputs(), time.monotonic()
            subprocess.run(["crun", "kill", work.name, "TERM"], check=True)
            until(lambda: not psutil.pid_exists(work.pid), LIMIT_S)
            drained_s = time.monotonic() - told_s
        answered = topics.outputs()
        doubled, lost, uncommitted, left = _settled(topics, brokers)
        topics.close()
    in_flight = [call for call in callers.calls if call.begun_s < told_s < call.ended_s and call.end is End.ANSWERED]
    return Found(
        interfaces,
        same,
        sum(call.end is End.ANSWERED for call in callers.calls),
        len(in_flight),
        [f"{call.door} {call.end.value}: {call.detail}" for call in callers.lost()],
        answered,
        answered - streamed,
        doubled,
        lost,
        uncommitted,
        left,
        round(drained_s, 1),
    )


def _by_http() -> np.ndarray | None:
    tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}
    try:
        answer = httpx.post(f"http://{HTTP}/v2/models/{MODEL}/infer", json={"inputs": [tensor]}, trust_env=False, timeout=30)
    except httpx.HTTPError:
        return None
    return np.array(answer.json()["outputs"][0]["data"]).reshape(1, -1) if answer.status_code == httpx.codes.OK else None


def _by_grpc() -> np.ndarray:
    tensor = pb.ModelInferRequest.InferInputTensor(name=INPUT, datatype="FP32", shape=[1, 784])
    request = pb.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[rows(1, seed=7).tobytes()])
    with grpc.insecure_channel(GRPC) as channel:
        told = channel.unary_unary(METHOD)(request.SerializeToString(), timeout=30)
    return np.frombuffer(pb.ModelInferResponse.FromString(told).raw_output_contents[0], np.float32).reshape(1, -1)


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    try:
        yield start_broker(folder, port=free_port(), cache=jar_cache()).bootstrap
    finally:
        stop_broker(folder)


def _streaming(work: Work, brokers: str) -> Topics:
    tag = uuid.uuid4().hex[:6]
    spec = StreamSpec(
        model=MODEL,
        brokers=brokers,
        input=StreamInput(topic=f"in-{tag}", format=Format.RAW, partitions=PARTITIONS),
        output=StreamOutput(topic=f"out-{tag}", format=Format.RAW, partitions=PARTITIONS),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        resources={"cpus": 0.1},  # type: ignore[arg-type]  # as a document would say it
        max_batch_rows=10,
    )
    key = (Path(work.home) / "key").read_text().strip()  # not this user's, so `home_key` would refuse it
    with ControlClient(f"http://{HTTP}", timeout_s=60.0, token=key) as control:
        document = FeedDocument(kind="stream", name=STREAM, model=MODEL, spec=spec.model_dump(mode="json"))
        control.apply(Apply(feeds=(document,)))
        until(lambda: control.feed(FeedName(kind="stream", name=STREAM)).status == "ready", LIMIT_S)
    return Topics(brokers, spec, lambda number: rows(1, seed=number % 7)[0].astype("<f4").tobytes(), bad=lambda _: b"odd")


def _settled(topics: Topics, brokers: str) -> tuple[int, int, int, int]:
    """How many records were answered twice, were committed but not answered, were answered but not committed, and are left."""
    places = [TopicPartition(topics.spec.input.topic, number) for number in range(PARTITIONS)]
    consumer = KafkaConsumer(bootstrap_servers=brokers, group_id=topics.spec.group_of(STREAM), enable_auto_commit=False)
    try:
        committed = [consumer.committed(place) or 0 for place in places]
    finally:
        consumer.close()
    taken = {n for partition, offset, n in topics.read(topics.spec.input.topic) if offset < committed[partition]}
    ended = [n for topic in (topics.spec.output.topic, topics.spec.dead_letters.topic) for _, _, n in topics.read(topic)]
    return len(ended) - len(set(ended)), len(taken - set(ended)), len(set(ended) - taken), topics.published - len(taken)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dataclasses.asdict(main(Work(**json.loads(sys.argv[1]))))) + "\n")
