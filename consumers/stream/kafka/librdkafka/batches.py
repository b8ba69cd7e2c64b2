"""Records through librdkafka, many at a time: by partition as they are read, and into its queue as they are sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress, count, islice, pairwise, repeat
from operator import ne
from typing import Any

from confluent_kafka import Message, Producer

from consumers.stream.log.port import Header, Outgoing, Partition


def runs(messages: Sequence[Message], topic: str | None = None) -> Iterator[tuple[Partition, Sequence[Message]]]:
    """The messages in stretches of one partition each, in order; a fetch brings hundreds of one partition at a time.

    `topic` is theirs where there can be no other.
    """
    columns: list[Any] = list(map(Message.partition, messages))
    if topic is None:
        columns = list(zip(map(Message.topic, messages), columns, strict=True))
    changes = compress(count(1), map(ne, columns, islice(columns, 1, None)))
    for start, end in pairwise([0, *changes, len(messages)]):
        if start < end:
            first = messages[start]
            yield Partition(topic or str(first.topic()), int(first.partition() or 0)), messages[start:end]


def headers_of(messages: Sequence[Message]) -> tuple[list[Sequence[Header]], dict[int, str]]:
    """The headers of each, and why those rows have none whose headers are no text.

    At such headers the client sets an error and returns a list with holes in it, which must never be looked at: `map` sees the
    error, where the interpreter's own calls of methods may not. And a message must not be asked twice.
    """
    unreadable: dict[int, str] = {}
    found: list[Any] = []
    ask = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(ask)  # what came before an error is kept
        except SystemError:
            unreadable[len(found)] = "a header's name is no UTF-8"
            found.append(None)
    return ([headers or () for headers in found] if any(found) else [()] * len(found)), unreadable


def send(producer: Producer, outgoing: Sequence[Outgoing]) -> None:
    """Hands the records to the producer, in order; waits for room in its queue where that is full."""
    for out in outgoing:
        columns: list[Sequence[Any]] = [out.values, out.keys, out.timestamps_ms, out.headers]
        sent = 0
        while sent < len(out):
            values, keys, times_ms, headers = (islice(column, sent, None) for column in columns)
            same = repeat(out.partition), repeat(None), repeat(None)
            try:
                for _ in map(producer.produce, repeat(out.topic), values, keys, *same, times_ms, headers):
                    sent += 1
            except BufferError:  # the queue is full: what is in it goes out meanwhile
                producer.poll(0.05)
