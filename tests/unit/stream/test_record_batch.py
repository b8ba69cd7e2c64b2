"""Record batches, as kafka-python itself reads and writes them a record at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_python.record_batch import HEADER_BYTES, Row, bodies, cuts, read_rows, written

FIRST_OFFSET, FIRST_MS = 12_345_678_901, 1_700_000_000_000

fields = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=5), fields), max_size=3)
times_ms = st.integers(0, 2**45)
records = st.lists(st.tuples(times_ms, fields, fields, headers), min_size=1, max_size=100)
Drawn = list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]


def by_the_library(drawn: Drawn) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 2**30)
    for number, (time_ms, key, value, named) in enumerate(drawn):
        builder.append(number, time_ms, key, value, named)
    return bytes(builder.build())


def by_ours(drawn: Drawn) -> bytes:
    times, keys, values, named = zip(*drawn, strict=True)
    return written(bodies(keys, values, named), times)


@pytest.mark.thorough
@given(records)
def test_written_as_the_library_writes(drawn: Drawn) -> None:
    assert by_ours(drawn) == by_the_library(drawn)[HEADER_BYTES:]


@pytest.mark.thorough
@given(records)
def test_read_as_the_library_reads(drawn: Drawn) -> None:
    whole = by_the_library(drawn)
    expected = [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in DefaultRecordBatch(whole)]
    rows = read_rows(whole, HEADER_BYTES, len(whole), len(drawn), offset=0, first_ms=drawn[0][0])
    assert [(*row[:4], list(row.headers)) for row in rows] == expected


def test_offsets_and_times_count_from_the_batch_s() -> None:
    drawn: Drawn = [(FIRST_MS, b"k", b"v", []), (FIRST_MS - 5, None, b"", [("a", None)])]
    data = by_ours(drawn)
    rows = read_rows(data, 0, len(data), 2, offset=FIRST_OFFSET, first_ms=FIRST_MS)
    assert rows == [
        Row(FIRST_OFFSET, FIRST_MS, b"k", b"v", ()),
        Row(FIRST_OFFSET + 1, FIRST_MS - 5, None, b"", [("a", None)]),
    ]
    appended = read_rows(data, 0, len(data), 2, offset=0, first_ms=FIRST_MS, appended_ms=7)
    assert [row.timestamp_ms for row in appended] == [7, 7]


@pytest.mark.thorough
@given(records, st.data())
def test_what_is_cut_short_or_too_long_is_refused(drawn: Drawn, data: st.DataObject) -> None:
    whole = by_ours(drawn)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for broken in (whole[:cut], whole + b"\0"):
        with pytest.raises((ValueError, IndexError)):
            read_rows(broken, 0, len(broken), len(drawn), offset=0, first_ms=0)


@given(records, st.data())
def test_a_byte_that_was_changed_never_hangs_nor_raises_anything_else(drawn: Drawn, data: st.DataObject) -> None:
    whole = bytearray(by_ours(drawn))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        rows = read_rows(bytes(whole), 0, len(whole), len(drawn), offset=0, first_ms=0)
    except (ValueError, IndexError):
        return
    assert len(rows) == len(drawn)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"\x0c\0\0\0\x01\x01\x03", id="fewer than no headers"),
        pytest.param(b"\x10\0\0\0\x01\x01\x02\x01\x01", id="a header without a name"),
        pytest.param(b"\x12\0\0\0\x01\x01\x02\x02\xff\x01", id="a header's name that is no text"),
        pytest.param(b"\xff" * 12, id="a length without an end"),
        pytest.param(b"\x0e\0\0\0\x01\x01\0", id="longer than it says"),
    ],
)
def test_no_records(broken: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_rows(broken, 0, len(broken), 1, offset=0, first_ms=0)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=60), st.integers(100, 20_000))
def test_cuts_hold_all_in_order_and_fit(sizes: list[int], room_bytes: int) -> None:
    held = bodies([None] * len(sizes), [b"x" * size for size in sizes], [()] * len(sizes))
    stretches = list(cuts(held, room_bytes))
    assert [body for rows in stretches for body in held[rows]] == held
    for rows in stretches:
        data = written(held[rows], [0] * (rows.stop - rows.start))
        assert len(data) <= room_bytes or rows.stop - rows.start == 1


def test_nothing_is_no_stretch() -> None:
    assert list(cuts([], 100)) == []


def test_a_batchs_header_is_as_long_as_the_librarys() -> None:
    assert DefaultRecordBatch.HEADER_STRUCT.size == HEADER_BYTES
