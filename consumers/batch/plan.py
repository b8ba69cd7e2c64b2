"""Cuts a dataset into units. Pure: what files hold is given, what to read in which unit comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import xxhash

SMALLEST_BYTES = 8 * 1024 * 1024  # below this, starting a unit costs more than it balances,
SMALLEST_ROWS = 64 * 1024  # unless it holds so many rows: columns that compress well take few bytes, and the model as long
UNITS_A_WORKER = 8  # the last worker to end keeps the others waiting for half a unit on average


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group that passes the filter. `size_bytes` is uncompressed."""

    index: int
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file with what its footer says. `partition` holds hive keys and their values, None for null.

    `footer` is the footer's digest, where the run scores new files only.
    """

    path: str
    size_bytes: int
    modified_ns: int
    row_groups: tuple[RowGroup, ...]
    partition: tuple[tuple[str, str | None], ...] = ()
    footer: str = ""

    @property
    def rows(self) -> int:
        """Rows in the row groups that are read."""
        return sum(group.rows for group in self.row_groups)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that can't be read, and why."""

    path: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Row groups of one file. The file's size tells whether it is still the file that was planned."""

    path: str
    row_groups: tuple[int, ...]
    rows: int
    file_bytes: int
    modified_ns: int
    partition: tuple[tuple[str, str | None], ...] = ()
    footer: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is scored, written and recorded as one. The id is the unit's place in the plan and a digest of what it reads.

    `damaged` are files among its slices that another unit could not read: they are left out here too.
    """

    id: str
    slices: tuple[Slice, ...]
    rows: int
    size_bytes: int
    damaged: tuple[Damaged, ...] = ()


def plan(files: Sequence[InputFile], *, max_rows: int, max_bytes: int, workers: int) -> tuple[Unit, ...]:
    """Units in the order of `files`, each row group in exactly one.

    A unit keeps to `max_rows` and `max_bytes` unless it is one single row group. Where the dataset is small the byte bound
    shrinks, so that every worker has a few units and none idles at the end. Small files share a unit.
    """
    total_bytes = sum(group.size_bytes for file in files for group in file.row_groups)
    fair_bytes = -(-total_bytes // max(1, workers * UNITS_A_WORKER))
    total_rows = sum(file.rows for file in files)
    smallest_bytes = min(SMALLEST_BYTES, SMALLEST_ROWS * total_bytes // max(1, total_rows))
    bound = min(max_bytes, max(fair_bytes, smallest_bytes))
    return tuple(_unit(place, part) for place, part in enumerate(_pack(files, max_rows=max_rows, max_bytes=bound)))


def _pack(files: Iterable[InputFile], *, max_rows: int, max_bytes: int) -> Iterator[list[tuple[InputFile, RowGroup]]]:
    part: list[tuple[InputFile, RowGroup]] = []
    rows = size_bytes = 0
    for file in files:
        for group in file.row_groups:
            if part and (rows + group.rows > max_rows or size_bytes + group.size_bytes > max_bytes):
                yield part
                part, rows, size_bytes = [], 0, 0
            part.append((file, group))
            rows += group.rows
            size_bytes += group.size_bytes
    if part:
        yield part


def _unit(place: int, part: list[tuple[InputFile, RowGroup]]) -> Unit:
    by_file: dict[str, tuple[InputFile, list[RowGroup]]] = {}
    for file, group in part:
        by_file.setdefault(file.path, (file, []))[1].append(group)
    slices = tuple(
        Slice(
            file.path,
            tuple(group.index for group in groups),
            sum(group.rows for group in groups),
            file.size_bytes,
            file.modified_ns,
            file.partition,
            file.footer,
        )
        for file, groups in by_file.values()
    )
    digest = xxhash.xxh3_64()
    for piece in slices:
        digest.update(repr((piece.path, piece.row_groups, piece.file_bytes)).encode())
    return Unit(
        id=f"{place:06d}-{digest.hexdigest()[:8]}",
        slices=slices,
        rows=sum(piece.rows for piece in slices),
        size_bytes=sum(group.size_bytes for _, group in part),
    )
