"""Records as Kafka's record batches hold them (format 2), many at a time. Pure.

What costs a client in Python is calls and objects for each record; here that is a few. A record is its length, attributes, time
delta, offset delta, key, value and headers; lengths and deltas are zigzag varints: https://kafka.apache.org/documentation/#record
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import NamedTuple

from consumers.stream.log.port import Header

FORMAT = 2
HEADER_BYTES = 61  # of a batch
PLACE_MAX_BYTES = 21  # what a record takes besides its body: length 5, attributes 1, time 10, offset 5
NO_ATTRIBUTES = b"\0"
NULL = b"\x01"  # a length of -1
KEPT_VARINTS = 65_536
VARINT_BITS = 63


class Row(NamedTuple):
    """A record that was read."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class _Varints(dict[int, bytes]):
    """Each number as a zigzag varint. Small ones are kept."""

    def __missing__(self, number: int) -> bytes:
        rest, encoded = (number << 1) ^ (number >> VARINT_BITS), bytearray()
        while rest > 0x7F:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
        made = bytes(encoded)
        if abs(number) < KEPT_VARINTS:
            self[number] = made
        return made


_VARINTS = _Varints()


def read_rows(
    data: bytes, at: int, until: int, count: int, *, offset: int, first_ms: int, appended_ms: int | None = None
) -> list[Row]:
    """The `count` records that fill `data` from `at` to `until`; offsets count from `offset`, times from `first_ms`.

    `appended_ms` is the time of all of them, where the broker sets it. Raises ValueError or IndexError where they are no records.
    """
    rows = []
    for _ in range(count):
        size, at = _length(data, at)
        end = at + size
        later_ms, at = _length(data, at + 1)
        further, at = _length(data, at)
        key, at = _field(data, at)
        value, at = _field(data, at)
        headers, at = _headers(data, at)
        if at != end:
            raise ValueError(f"a record of {size} bytes ends {at - end} bytes after its end")
        rows.append(Row(offset + further, first_ms + later_ms if appended_ms is None else appended_ms, key, value, headers))
    if at != until:
        raise ValueError(f"the last record ends {at - until} bytes after the batch")
    return rows


def bodies(keys: Iterable[bytes | None], values: Iterable[bytes | None], headers: Iterable[Sequence[Header]]) -> list[bytes]:
    """What each record holds that does not depend on its place."""
    return list(map(b"".join, zip(_sized(keys), _sized(values), _written_headers(headers), strict=True)))


def cuts(held: Sequence[bytes], room_bytes: int) -> Iterator[slice]:
    """The records with these bodies in stretches that certainly take no more than `room_bytes`, or are one record."""
    ends, start, taken = list(accumulate(len(body) + PLACE_MAX_BYTES for body in held)), 0, 0
    while start < len(held):
        end = max(bisect_right(ends, taken + room_bytes), start + 1)
        yield slice(start, end)
        start, taken = end, ends[end - 1]


def written(held: Sequence[bytes], times_ms: Sequence[int]) -> bytes:
    """The records of a batch, with these bodies; the first one's time is the batch's."""
    first_ms, varint = times_ms[0], _VARINTS.__getitem__
    later_ms = map(varint, [time_ms - first_ms for time_ms in times_ms])
    records = list(map(b"".join, zip(repeat(NO_ATTRIBUTES), later_ms, map(varint, range(len(held))), held)))
    return b"".join(chain.from_iterable(zip(map(varint, map(len, records)), records, strict=True)))


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    raw = data[at]
    at += 1
    if raw > 0x7F:
        raw &= 0x7F
        shift = 7
        while (more := data[at]) > 0x7F:
            raw |= (more & 0x7F) << shift
            at += 1
            shift += 7
            if shift > VARINT_BITS:
                raise ValueError("a varint of more than 64 bits")
        raw |= more << shift
        at += 1
    return (raw >> 1) ^ -(raw & 1), at


def _field(data: bytes, at: int) -> tuple[bytes | None, int]:
    """Bytes with their length before them, or None, and where they end."""
    size, at = _length(data, at)
    if size < 0:
        return None, at
    return data[at : at + size], at + size


def _headers(data: bytes, at: int) -> tuple[Sequence[Header], int]:
    count, at = _length(data, at)
    if not count:
        return (), at
    if count < 0:
        raise ValueError(f"{count} headers")
    headers: list[Header] = []
    for _ in range(count):
        name, at = _field(data, at)
        if name is None:
            raise ValueError("a header without a name")
        value, at = _field(data, at)
        headers.append((name.decode(), value))
    return headers, at


def _sized(column: Iterable[bytes | None]) -> list[bytes]:
    return [NULL if each is None else _VARINTS[len(each)] + each for each in column]


def _written_headers(column: Iterable[Sequence[Header]]) -> Iterator[bytes]:
    known: dict[str, bytes] = {}
    for headers in column:
        parts = [_VARINTS[len(headers)]]
        for name, value in headers:
            named = known.get(name)
            if named is None:
                encoded = name.encode()
                named = known[name] = _VARINTS[len(encoded)] + encoded
            parts += (named, NULL) if value is None else (named, _VARINTS[len(value)], value)
        yield b"".join(parts)
