"""A stream on a real broker, for a console without Ray: its topics, its dead letters, and who acts on it, in this process."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import orjson
from kafka import KafkaProducer

from cluster.commands.streams.moves import StreamDocument
from cluster.control_plane import ControlPlane
from consumers.stream.kafka.offsets import committed_offsets, offset_ranges, set_group
from consumers.stream.log.port import Partition
from consumers.stream.operate.stream_operator import StreamOperator
from consumers.stream.outgoing.answers import CONNECT
from consumers.stream.spec import Client, StreamSpec
from deployments.gateway.console.streams import (
    DeadLetter,
    DeadLetters,
    LetterChoice,
    LetterPlace,
    LetterRange,
    SeekPlan,
    StreamMove,
)
from tests.support.stream_parts import SumScoring
from tests.support.stream_topics import small_stream


class LocalStreamOperations:
    """Implements `StreamOperations` by a StreamOperator in this process, whose rows are summed up."""

    def __init__(self, control: ControlPlane, brokers: str) -> None:
        self._operator = StreamOperator(control, brokers, lambda: nullcontext(SumScoring()))

    async def dead_letters(self, stream: StreamDocument, before: tuple[LetterRange, ...], reason: str) -> DeadLetters:
        return await asyncio.to_thread(self._operator.dead_letters, stream, before, reason)

    async def dead_letter(self, stream: StreamDocument, place: LetterPlace) -> DeadLetter:
        return await asyncio.to_thread(self._operator.dead_letter, stream, place)

    async def replay(self, stream: StreamDocument, choice: LetterChoice, replay: str, by: str) -> StreamMove:
        return await asyncio.to_thread(self._operator.replay, stream, choice, replay, by)

    async def preview(self, stream: StreamDocument, to: str) -> SeekPlan:
        return await asyncio.to_thread(self._operator.preview, stream, to)

    async def check(self, stream: StreamDocument, plan: SeekPlan) -> None:
        await asyncio.to_thread(self._operator.check, stream, plan)

    async def seek(self, stream: StreamDocument, plan: SeekPlan, by: str, stopped_s: float | None) -> StreamMove:
        return await asyncio.to_thread(self._operator.seek, stream, plan, by, stopped_s)

    async def moves(self, stream: str) -> tuple[StreamMove, ...]:
        return self._operator.moves(stream)


@dataclass
class OperatedStream:
    """Ten records in each of two partitions, of which the group has committed the first four; and dead letters."""

    brokers: str
    name: str = field(default_factory=lambda: f"orders-{uuid.uuid4().hex[:6]}")
    model: str = "fraud"
    spec: StreamSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = small_stream(self.brokers, Client.KAFKA_PYTHON, 2, resources={"cpus": 0.1}).model_copy(
            update={"model": self.model}
        )
        producer = KafkaProducer(bootstrap_servers=self.brokers)
        for number in range(20):
            producer.send(self.spec.input.topic, orjson.dumps({"x": [number, 0, 0]}), partition=number % 2)
        producer.flush()
        producer.close()
        starts = {Partition(self.spec.input.topic, number): 4 for number in range(2)}
        set_group(self.group, starts, self.brokers, self.spec.security)

    @property
    def group(self) -> str:
        """Its consumer group."""
        return self.spec.group_of(self.name)

    @property
    def document(self) -> dict[str, Any]:
        """What is applied."""
        return self.spec.model_dump(mode="json") | {"brokers": self.brokers}

    def die(self, letters: Sequence[tuple[str, bytes]]) -> None:
        """Writes dead letters: of each the error's words, and the payload."""
        producer = KafkaProducer(bootstrap_servers=self.brokers)
        for offset, (message, value) in enumerate(letters):
            about = {
                "topic": self.spec.input.topic,
                "partition": "1",
                "offset": str(offset),
                "stage": "VALUE_CONVERTER",
                "exception.class.name": "cluster.errors.BadInput",
                "exception.message": message,
                "exception.stacktrace": f"cluster.errors.BadInput: {message}",
            }
            headers = [("trace", b"t"), *((f"{CONNECT}{name}", text.encode()) for name, text in about.items())]
            producer.send(self.spec.dead_letters.topic, value, b"k", headers, 0, int(time.time() * 1000))
        producer.flush()
        producer.close()

    def stands(self) -> dict[int, int]:
        """What the group has committed, by partition."""
        parts = offset_ranges(self.spec, self.brokers).ends
        return {p.number: at for p, at in committed_offsets(self.group, parts, self.brokers, self.spec.security).items()}
