"""Reads the newest dead letters, in bounded time and memory: backwards, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cluster.commands.streams.moves import StreamDocument
from cluster.errors import NotFound, Unreachable
from consumers.stream.kafka.peeking import peeking
from consumers.stream.operate.letters import LetterBook, listed_letter, shown_letter
from consumers.stream.spec import StreamSpec
from deployments.gateway.console.streams import (
    LETTERS_MOST,
    DeadLetter,
    DeadLetters,
    LetterPlace,
    LetterRange,
)

LOOK_S = 8.0
FIRST_PIECE = 100  # offsets, of all partitions together; the next one has twice as many
BYTES_MOST = 64 << 20

Bounds = Mapping[int, tuple[int, int]]


def newest_letters(
    stream: StreamDocument, brokers: str, before: Sequence[LetterRange], reason: str, timeout_s: float = LOOK_S
) -> DeadLetters:
    """See `StreamOperations.dead_letters`. Blocks."""
    spec = StreamSpec.model_validate(stream.spec)
    topic, book = spec.dead_letters.topic, LetterBook(reason)
    with peeking(brokers, spec.security, timeout_s) as look:
        bounds = look.bounds(topic)
        ends = {number: end for number, (_, end) in bounds.items()}
        ends |= {one.partition: min(one.begin, ends[one.partition]) for one in before if one.partition in ends}
        begins = dict(ends)
        read_bytes = 0
        for piece in _pieces(bounds, ends):
            letters = []
            for record in look.read(topic, piece):
                read_bytes += len(record.value or b"")
                letters.append(listed_letter(record))  # without its payload, which may be of megabytes
            if not look.in_time:
                break  # half a piece would leave a hole between what was looked at and what was not
            book.add(letters)
            begins |= {number: begin for number, (begin, _) in piece.items()}
            if read_bytes > BYTES_MOST:
                break
        if begins == ends and any(ends[number] > begin for number, (begin, _) in bounds.items()):
            remedy = "try again; large records take their time"
            raise Unreachable(f"the broker gave none within {timeout_s:g} s", where=f"topic {topic}", remedy=remedy)
    return DeadLetters(
        topic=topic,
        kept=sum(end - begin for begin, end in bounds.values()),
        ranges=tuple(LetterRange(partition=n, begin=begins[n], end=ends[n]) for n in sorted(ends)),
        letters=book.letters,
        more=any(begins[number] > begin for number, (begin, _) in bounds.items()),
        reasons=book.reasons,
        rows=book.rows,
    )


def one_letter(stream: StreamDocument, brokers: str, place: LetterPlace, timeout_s: float = LOOK_S) -> DeadLetter:
    """See `StreamOperations.dead_letter`. Blocks."""
    spec = StreamSpec.model_validate(stream.spec)
    topic = spec.dead_letters.topic
    with peeking(brokers, spec.security, timeout_s, largest_bytes=spec.max_record_bytes) as look:
        begin, end = look.bounds(topic).get(place.partition, (0, 0))
        if begin <= place.offset < end:
            for record in look.read(topic, {place.partition: (place.offset, place.offset + 1)}):
                return shown_letter(record, stream)
    raise NotFound(
        "there is no such dead letter, or no more",
        where=f"{topic}/{place.partition}/{place.offset}",
        remedy="look at the list again: a topic keeps records for a time only",
    )


def _pieces(bounds: Bounds, ends: Mapping[int, int]) -> Iterator[dict[int, tuple[int, int]]]:
    """From the end backwards, small ones first, until LETTERS_MOST offsets are told of. Pure."""
    at, offsets, told = dict(ends), FIRST_PIECE, 0
    while told < LETTERS_MOST:
        each = max(min(offsets, LETTERS_MOST - told) // max(len(bounds), 1), 1)
        piece = {n: (max(at[n] - each, bounds[n][0]), at[n]) for n in bounds if at[n] > bounds[n][0]}
        if not piece:
            return
        yield piece
        at |= {number: begin for number, (begin, _) in piece.items()}
        told, offsets = told + offsets, 2 * offsets
