"""Taking rows apart and putting them back in order. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cluster.errors import EngineFailure, HeadraceError
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array

Rows = npt.NDArray[np.intp]

MOVED_BYTES_AT_LEAST = 64 * 1024
KNOWN_ROWS_AT_MOST = 16_384  # callers choose the sizes: 8 MiB in all are kept for them


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version said to one batch of n rows. `outputs` have n rows each; those in `failed` hold zeros.

    `timed` is False where replicas were away meanwhile: how long it took then says nothing of the version.
    """

    outputs: dict[str, Array]
    failed: dict[int, HeadraceError] = field(default_factory=dict)
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """The answer of `version` for the rows of a call at `rows`, in the order of the answer.

    `fair` is False for rows that the version was given because another failed them.
    """

    version: int
    rows: Rows
    answer: Answer
    fair: bool = True


def all_rows(count: int) -> Rows:
    """0 to `count` - 1, read-only."""
    return _known_rows(count) if count <= KNOWN_ROWS_AT_MOST else _rows(count)


@functools.lru_cache(maxsize=64)
def _known_rows(count: int) -> Rows:
    return _rows(count)


def _rows(count: int) -> Rows:
    rows = np.arange(count)
    rows.setflags(write=False)
    return rows


def take(tensors: Mapping[str, Array], rows: Rows | slice) -> dict[str, Array]:
    """The named rows of every tensor; a copy, unless `rows` is a slice."""
    if isinstance(rows, slice):
        return {name: tensor[rows] for name, tensor in tensors.items()}
    return {name: tensor.take(rows, axis=0) for name, tensor in tensors.items()}  # twice as fast as by index


def can_move(tensors: Mapping[str, Array]) -> bool:
    """Whether `move_to_end` may be asked for these (what lies in read-only memory is somebody else's), and takes less than to
    copy them."""
    writeable = all(tensor.flags.writeable for tensor in tensors.values())
    return writeable and sum(tensor.nbytes for tensor in tensors.values()) >= MOVED_BYTES_AT_LEAST


def move_to_end(tensors: Mapping[str, Array], chosen: npt.NDArray[np.bool_]) -> Rows:
    """Moves the chosen rows of every tensor to its end, in place; returns, for each place, which row is there now.

    Only rows on the wrong side change places, at most twice as many as are chosen: the others are never copied.
    """
    first = len(chosen) - int(np.count_nonzero(chosen))
    front, back = np.flatnonzero(chosen[:first]), first + np.flatnonzero(~chosen[first:])
    here, there = np.concatenate((front, back)), np.concatenate((back, front))
    order = np.arange(len(chosen))
    order[here] = there
    for tensor in tensors.values():
        tensor[here] = tensor.take(there, axis=0)
    return order


def blank(spec: TensorSpec, rows: int, inner: tuple[int, ...] | None = None) -> Array:
    """An output of `rows` rows of zeros, empty bytes for BYTES. `inner` are the axes after the first where they vary."""
    shape = (rows, *(inner if inner is not None else tuple(max(axis, 0) for axis in spec.shape[1:])))
    if spec.datatype is Datatype.BYTES:
        return np.full(shape, b"", dtype=np.object_)
    return np.zeros(shape, dtype=NUMPY[spec.datatype])


def all_failed(signature: Signature, rows: int, error: HeadraceError) -> Answer:
    """The answer of a version that could say nothing: every row carries the error, as an EngineFailure."""
    failure = error if isinstance(error, EngineFailure) else EngineFailure(error.what, where=error.where, remedy=error.remedy)
    return Answer({spec.name: blank(spec, rows) for spec in signature.outputs}, dict.fromkeys(range(rows), failure))


def joined(signature: Signature, answers: Sequence[Answer], sizes: Sequence[int]) -> Answer:
    """Answers to the pieces of a batch as one. A piece whose outputs have other inner axes than the first's has failed."""
    if len(answers) == 1:
        return answers[0]
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [
        Part(0, np.arange(start, start + size), answer) for start, size, answer in zip(starts[:-1], sizes, answers, strict=True)
    ]
    outputs, failed = assembled(signature, parts, starts[-1])
    return Answer(outputs, failed, all(answer.timed for answer in answers))


def assembled(signature: Signature, parts: Sequence[Part], rows: int) -> tuple[dict[str, Array], dict[int, HeadraceError]]:
    """Every part's rows put where they came from, and the errors by row. Rows in no part hold zeros."""
    if len(parts) == 1 and len(parts[0].rows) == rows and _is_whole(parts[0].rows, rows):
        # Only what the signature names: a candidate may give more, and would do so for some of a caller's batches.
        whole_outputs = {spec.name: parts[0].answer.outputs[spec.name] for spec in signature.outputs}
        return whole_outputs, dict(parts[0].answer.failed)
    errors: dict[int, HeadraceError] = {}
    for part in parts:
        for index, error in part.answer.failed.items():
            errors[int(part.rows[index])] = error
    outputs: dict[str, Array] = {}
    for spec in signature.outputs:
        inner = next((p.answer.outputs[spec.name].shape[1:] for p in parts if len(p.answer.failed) < len(p.rows)), None)
        whole = blank(spec, rows, inner)
        for part in parts:
            if len(part.answer.failed) == len(part.rows):
                continue
            piece = part.answer.outputs[spec.name]
            if piece.shape[1:] == whole.shape[1:]:
                whole[part.rows] = piece
            else:
                # One array can't hold both: these rows go the way of any other answer that can't be given.
                for row in part.rows.tolist():
                    errors.setdefault(
                        row, EngineFailure(f"{spec.name} has shape {list(piece.shape[1:])} a row, others {list(whole.shape[1:])}")
                    )
        outputs[spec.name] = whole
    return outputs, errors


def _is_whole(rows: Rows, count: int) -> bool:
    if count <= KNOWN_ROWS_AT_MOST and rows is _known_rows(count):
        return True
    return bool(count == 0 or (rows[0] == 0 and rows[-1] == count - 1 and np.all(rows[1:] > rows[:-1])))
