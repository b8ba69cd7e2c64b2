"""From scored rows to the records that leave: outputs and dead letters with their headers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, repeat
from typing import overload

import numpy as np
import numpy.typing as npt

from cluster.errors import HeadraceError
from cluster.foreign import trace_of
from consumers.stream.codecs.cloudevents import Envelope, about_event
from consumers.stream.log.port import Header, Origins, Outgoing, Records, subset
from consumers.stream.spec import InputEnvelope, OutputEnvelope, StreamSpec
from consumers.stream.traced import carried, context_header

MODEL_HEADER = "headrace.model"
VERSION_HEADER = "headrace.version"
PREDICTION_HEADER = "headrace.prediction_id"
LABEL_KEY_HEADER = "headrace.label_key"
OUTLIER_HEADER = "headrace.outlier_p"
HEADER_BYTES = 10  # of a header: two lengths
VERSION_DIGITS = 10
CONNECT = "__connect.errors."
MESSAGE_MAX_BYTES = 4096
STACK_MAX_BYTES = 16_384


class Stage(StrEnum):
    """Where a record failed, in Kafka Connect's words."""

    DECODING = "VALUE_CONVERTER"
    SCORING = "TASK_PUT"
    WRITING = "KAFKA_PRODUCE"


@dataclass(frozen=True, slots=True)
class DeadLetterReason:
    """Why a record can't be scored."""

    stage: Stage
    error: HeadraceError


@dataclass(frozen=True, slots=True)
class AnswerTemplate:
    """What all answers of a stream have in common. `unwrapped`: the input was an event, whose headers end here.

    `extra_headers` are headers that say how they came about.
    """

    model: str
    topic: str
    envelope: Envelope | None = None
    unwrapped: bool = False
    extra_headers: tuple[Header, ...] = ()


def answer_template(spec: StreamSpec, extra_headers: Sequence[Header] = ()) -> AnswerTemplate:
    """The form that a stream's document declares."""
    output = spec.output
    envelope = None if output.envelope is OutputEnvelope.NONE else Envelope(output.envelope, output.format, spec.model)
    unwrapped = spec.input.envelope is not InputEnvelope.NONE or envelope is not None
    return AnswerTemplate(spec.model, output.topic, envelope, unwrapped, tuple(extra_headers))


def prediction_ids(origin: Origins) -> list[bytes]:
    """`topic/partition/offset` of each input record: the same after any replay, and where to find the record."""
    (topic, number), offsets = origin
    prefix = f"{topic}/{number}/"
    # A line each, then cut apart: half the time of encoding one by one. No topic's name holds a line's end.
    return (prefix + f"\n{prefix}".join(map(str, offsets))).encode().split(b"\n") if len(offsets) else []


def split_keys(records: Records) -> list[bytes | None]:
    """What steers the split: the record's key, or its prediction id where it has none."""
    if None not in records.keys:
        return list(records.keys)
    return [own if own is not None else by_id for own, by_id in zip(records.keys, prediction_ids(records.origin), strict=True)]


def headers_bytes(headers: Sequence[Header]) -> int:
    """What a record's headers take in its topic, about."""
    return sum([len(name) + len(value or b"") + HEADER_BYTES for name, value in headers])


class OwnHeaders(Sequence[list[Header]]):
    """Ours of answers that have no others, in order: `fixed` are the same for all, `more` are those of single rows, behind them.

    Each list is made when it is asked for. Made ahead, those of a whole commit are out of the processor's cache once they are
    sent, and thousands at a time wait to be freed.
    """

    def __init__(
        self, fixed: Sequence[Header], versions: Sequence[int], origin: Origins, more: Mapping[int, Header] | None = None
    ) -> None:
        self._fixed, self._versions, self._origin, self._more = fixed, versions, origin, more or {}

    def __len__(self) -> int:
        return len(self._versions)

    def most_bytes(self) -> int:
        """What all of them take at most: no row's own take more than the last one's with the longest version."""
        if not len(self):
            return 0
        last = OwnHeaders(self._fixed, self._versions, self._origin)[-1]
        return len(self) * (headers_bytes(last) + VERSION_DIGITS) + sum(headers_bytes([one]) for one in self._more.values())

    def __iter__(self) -> Iterator[list[Header]]:
        named = {version: (VERSION_HEADER, str(version).encode()) for version in set(self._versions)}
        ids = zip(repeat(PREDICTION_HEADER), prediction_ids(self._origin))  # one never ends
        columns = (*map(repeat, self._fixed), map(named.__getitem__, self._versions), ids)
        made = map(list, zip(*columns))  # noqa: B905
        return self._with_more(made) if self._more else made

    def _with_more(self, made: Iterator[list[Header]]) -> Iterator[list[Header]]:
        begin = 0
        for row in sorted(self._more):
            yield from islice(made, row - begin)
            yield [*next(made), self._more[row]]
            begin = row + 1
        yield from made

    @overload
    def __getitem__(self, row: int) -> list[Header]: ...
    @overload
    def __getitem__(self, row: slice) -> OwnHeaders: ...
    def __getitem__(self, row: int | slice) -> list[Header] | OwnHeaders:
        partition, offsets = self._origin
        if isinstance(row, slice):
            rows = range(len(self))[row] if self._more else ()
            more = {at: self._more[old] for at, old in enumerate(rows) if old in self._more}
            return OwnHeaders(self._fixed, self._versions[row], Origins(partition, offsets[row]), more)
        at = range(len(self))[row]
        (only,) = self[at : at + 1]
        return only


def output_records(
    records: Records,
    rows: Sequence[int],
    bodies: Sequence[bytes | None],
    versions: npt.NDArray[np.int32],
    *,
    form: AnswerTemplate,
    partitions: int,
    label_keys: Sequence[str] | None = None,
    outliers: Sequence[float] | None = None,
) -> Outgoing:
    """The answers to the rows of `records` that were scored; `bodies`, `versions`, `label_keys` and
    `outliers` (p-values) are as long as `rows`.

    Key, headers and timestamp travel on; ours come last, so a reader that keeps the last of a name sees ours. Where a record is
    traced, its answer's trace context is ours alone.
    """
    envelope = form.envelope
    fixed = [(MODEL_HEADER, form.model.encode()), *form.extra_headers]
    chosen = records if len(rows) == len(records) else subset(records, rows)
    ours = OwnHeaders(fixed, versions.tolist(), chosen.origin)
    headers: Sequence[list[Header]] = ours
    if any(chosen.headers):
        headers = [[*_sendable(theirs), *own] for theirs, own in zip(chosen.headers, ours, strict=True)]
        headers = carried(headers, chosen.spans)
    elif chosen.spans:
        more = {row: context_header(span) for row, span in chosen.spans.items()}
        headers = OwnHeaders(fixed, versions.tolist(), chosen.origin, more)
    if label_keys is not None:
        named = zip(headers, label_keys, prediction_ids(chosen.origin), strict=True)
        headers = [[*each, (LABEL_KEY_HEADER, f"{key}/".encode() + own)] if key else each for each, key, own in named]
    if outliers is not None:
        headers = [[*each, (OUTLIER_HEADER, b"%.6f" % p)] for each, p in zip(headers, outliers, strict=True)]
    if form.unwrapped:
        headers = [about_event(each) for each in headers]
    if envelope is not None:
        ids = prediction_ids(chosen.origin)
        headers = [[*each, *envelope.headers(own)] for each, own in zip(headers, ids, strict=True)]
        bodies = [envelope.wrap(body, own) for body, own in zip(bodies, ids, strict=True)]
    return Outgoing(
        form.topic,
        records.origin.partition.number % partitions,
        chosen.keys,
        bodies,
        headers,
        chosen.timestamps_ms,
    )


def dead_letter_records(
    records: Records,
    dead: Mapping[int, DeadLetterReason],
    *,
    stream: str,
    topic: str,
    partitions: int,
    extra_headers: Sequence[Header] = (),
) -> Outgoing:
    """The rows of `records` that can't be scored, untouched, with the headers that Kafka Connect writes."""
    rows = sorted(dead)
    origin, offsets = records.origin
    where = [
        *extra_headers,
        (f"{CONNECT}topic", origin.topic.encode()),
        (f"{CONNECT}partition", str(origin.number).encode()),
        (f"{CONNECT}connector.name", stream.encode()),
        (f"{CONNECT}task.id", str(origin.number).encode()),
    ]
    headers = [
        [*_sendable(records.headers[row]), *where, (f"{CONNECT}offset", str(offsets[row]).encode()), *_reason(dead[row])]
        for row in rows
    ]
    return Outgoing(
        topic,
        origin.number % partitions,
        [records.keys[row] for row in rows],
        [records.values[row] for row in rows],
        headers,
        [records.timestamps_ms[row] for row in rows],
    )


def _reason(dead: DeadLetterReason) -> list[Header]:
    error = dead.error
    kind, message = f"{type(error).__module__}.{type(error).__qualname__}", str(error)
    # Most were never raised. To have Python format what has no trace costs as much as to decode the record.
    bare = error.__traceback__ is None and error.__cause__ is None and error.__context__ is None
    trace = f"{kind}: {message}\n" if bare else trace_of(error)
    return [
        (f"{CONNECT}stage", dead.stage.value.encode()),
        (f"{CONNECT}class.name", b"consumers.stream.loop.Loop"),
        (f"{CONNECT}exception.class.name", kind.encode()),
        (f"{CONNECT}exception.message", message.encode()[:MESSAGE_MAX_BYTES]),
        (f"{CONNECT}exception.stacktrace", trace.encode()[-STACK_MAX_BYTES:]),
    ]


def _sendable(headers: Sequence[Header]) -> list[Header]:
    """Null header values are legal to receive and not to send with every client: they leave empty."""
    return [(name, b"" if value is None else value) for name, value in headers] if headers else []
