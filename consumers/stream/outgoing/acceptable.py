"""What a topic won't take, and dead letters made so that it does. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain

from cluster.errors import BadInput
from consumers.stream.log.port import NO_TIME_MS, Outgoing, TopicLimits
from consumers.stream.outgoing.answers import CONNECT, DeadLetterReason, OwnHeaders, Stage, headers_bytes

VALUE_BYTES_HEADER = "headrace.value_bytes"
MADE_KEY_HEADER = "headrace.made_key"  # the record had no key
TIMESTAMP_HEADER = "headrace.timestamp_ms"  # the time that the record had
LONG_HEADERS = (f"{CONNECT}exception.message", f"{CONNECT}exception.stacktrace")
LONG_LEFT_BYTES = 256
FIXED_BYTES = 40  # of a record: lengths, offset, time


def unfit(answers: Outgoing, limits: TopicLimits, now_ms: int) -> dict[int, DeadLetterReason]:
    """Which of the answers their topic won't take at this time (Unix, milliseconds), and why."""
    found = {row: _too_large(limits.largest_bytes) for row in oversized(answers, limits.largest_bytes)}
    if untimely := _untimely(answers.timestamps_ms, limits, now_ms):
        found |= dict.fromkeys(untimely, _wrong_time(limits))
    if limits.keyed and None in answers.keys:
        found |= {row: _KEYLESS for row, key in enumerate(answers.keys) if key is None}
    return found


def acceptable_letters(
    dead_letters: Outgoing,
    limits: TopicLimits,
    now_ms: int,
    ids: Sequence[bytes],
    *,
    legal: Collection[int],
    bare: Collection[int],
) -> Outgoing:
    """The dead letters as their topic takes them: a key is made of the record's id where there must be one, its time is now where
    its own is refused, and it is cut where it is too large. Headers tell what it had.

    The rows of `legal` get a key and the time, those of `bare` are cut, whatever the topic says that it takes.
    """
    moved = {*legal, *_untimely(dead_letters.timestamps_ms, limits, now_ms)}
    named = {row for row in (range(len(dead_letters)) if limits.keyed else legal) if dead_letters.keys[row] is None}
    if moved or named:
        keys, times_ms, headers = (
            list(dead_letters.keys),
            list(dead_letters.timestamps_ms),
            [list(each) for each in dead_letters.headers],
        )
        for row in moved:
            headers[row].append((TIMESTAMP_HEADER, str(times_ms[row]).encode()))
            times_ms[row] = now_ms
        for row in named:
            headers[row].append((MADE_KEY_HEADER, b"true"))
            keys[row] = ids[row]
        dead_letters = replace(dead_letters, keys=keys, timestamps_ms=times_ms, headers=headers)
    if large := {*bare, *oversized(dead_letters, limits.largest_bytes)}:
        dead_letters = cut(dead_letters, sorted(large))
        dead_letters = shortened(dead_letters, sorted({*bare, *oversized(dead_letters, limits.largest_bytes)}))
    return dead_letters


def _untimely(times_ms: Sequence[int], limits: TopicLimits, now_ms: int) -> Sequence[int]:
    """Which times the topic won't take. Looks at each only where the first or the last of them is refused."""
    if not len(times_ms) or (limits.before_ms is None and limits.after_ms is None):
        return ()
    first_ms, last_ms = min(times_ms), max(times_ms)
    dated = first_ms > NO_TIME_MS or limits.before_ms is None
    if dated and limits.allows_time(first_ms, now_ms) and limits.allows_time(last_ms, now_ms):
        return ()
    return [row for row, time_ms in enumerate(times_ms) if not limits.allows_time(time_ms, now_ms)]


def oversized(outgoing: Outgoing, largest_bytes: int) -> list[int]:
    """Which records take more than so many bytes. Looks at each only where all together do."""
    bodies = sum(map(len, filter(None, chain(outgoing.keys, outgoing.values))))
    headers = outgoing.headers
    named = headers.most_bytes() if isinstance(headers, OwnHeaders) else sum(map(headers_bytes, headers))
    if FIXED_BYTES * len(outgoing) + bodies + named <= largest_bytes:
        return []
    columns = zip(outgoing.keys, outgoing.values, map(headers_bytes, headers), strict=True)
    sizes = (len(key or b"") + len(value or b"") + header for key, value, header in columns)
    return [row for row, size in enumerate(sizes) if size + FIXED_BYTES > largest_bytes]


def _too_large(largest_bytes: int) -> DeadLetterReason:
    what = f"the answer with its headers is larger than the {largest_bytes} bytes that its topic takes"
    return DeadLetterReason(
        Stage.WRITING, BadInput(what, where="output", remedy="raise the topic's max.message.bytes, or send less headers")
    )


def _wrong_time(limits: TopicLimits) -> DeadLetterReason:
    before, after = ("any time" if ms is None else f"{ms} ms" for ms in (limits.before_ms, limits.after_ms))
    what = f"the output's topic takes records whose time lies up to {before} back and up to {after} ahead; this one's does not"
    remedy = (
        "have its producer send the time in ms, or change the topic's message.timestamp.before.max.ms, .after.max.ms or .type"
    )
    return DeadLetterReason(Stage.WRITING, BadInput(what, where="output", remedy=remedy))


_KEYLESS = DeadLetterReason(
    Stage.WRITING,
    BadInput(
        "the record has no key, and the output's topic is compacted, which takes none without",
        where="output",
        remedy="have its producer send a key, or change the topic's cleanup.policy",
    ),
)


def cut(dead: Outgoing, rows: Sequence[int]) -> Outgoing:
    """The dead letters without the value, and all headers but Kafka Connect's, of those rows: they say where the record lies."""
    values, headers = list(dead.values), list(dead.headers)
    for row in rows:
        size = str(len(values[row] or b"")).encode()
        values[row] = None
        headers[row] = [
            *(h for h in headers[row] if h[0].startswith(CONNECT) or h[0] in (MADE_KEY_HEADER, TIMESTAMP_HEADER)),
            (VALUE_BYTES_HEADER, size),
        ]
    return replace(dead, values=values, headers=headers)


def shortened(dead: Outgoing, rows: Sequence[int]) -> Outgoing:
    """The dead letters with little of what the error said in those rows: for topics that take next to nothing."""
    headers = list(dead.headers)
    for row in rows:
        headers[row] = [
            (name, value[:LONG_LEFT_BYTES] if value and name in LONG_HEADERS else value) for name, value in headers[row]
        ]
    return replace(dead, headers=headers)
