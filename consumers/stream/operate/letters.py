"""Dead letters as people look at them: summed up by reason, and one shown as text. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.commands.streams.moves import StreamDocument
from consumers.stream.kafka.peeking import PeekedRecord
from consumers.stream.operate.redacting import shown_value
from consumers.stream.outgoing.answers import CONNECT
from consumers.stream.replay.conditions import OF_ITS_DEATH, DeadLetterField
from consumers.stream.spec import StreamInput, StreamSpec
from deployments.gateway.console.streams import DeadLetter, LetterReason, LetterRow, ShownAs

MESSAGE_SHOWN, TRACE_SHOWN, HEADER_SHOWN, HEADERS_SHOWN = 500, 16_384, 500, 50
REASONS_MOST, ROWS_MOST = 50, 100
KEPT_BACK = "kept back"
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class OfReason:
    """Holds for dead letters of the reason with that key."""

    key: str

    def holds(self, headers: Mapping[str, bytes | None]) -> bool:
        """See `DeadLetterCondition`."""
        return reason_key(*reason_of(headers)) == self.key


def reason_of(headers: Mapping[str, bytes | None]) -> tuple[str, str, str]:
    """Stage, exception and message, without numbers: alike failures differ in them alone."""
    stage, exception = _text(headers, DeadLetterField.STAGE), _text(headers, DeadLetterField.EXCEPTION)
    message = _text(headers, DeadLetterField.MESSAGE)
    return stage[:100], exception[:200], _NUMBERS.sub("#", message)[:MESSAGE_SHOWN]


def reason_key(stage: str, exception: str, message: str) -> str:
    """A short name for a reason."""
    return hashlib.sha256("\0".join((stage, exception, message)).encode()).hexdigest()[:12]


def listed_letter(record: PeekedRecord) -> tuple[LetterRow, LetterReason]:
    """A dead letter as one of many, and its reason."""
    headers, at_ms = dict(record.headers), record.time_ms
    origin = "/".join(_text(headers, name)[:249] for name in (DeadLetterField.TOPIC, DeadLetterField.PARTITION, "offset"))
    stage, exception, message = reason_of(headers)
    key = reason_key(stage, exception, message)
    row = LetterRow(
        partition=record.partition.number,
        offset=record.offset,
        at_ms=at_ms,
        origin=origin.strip("/"),
        reason=key,
        value_bytes=len(record.value or b""),
    )
    reason = LetterReason(key=key, stage=stage, exception=exception, message=message, letters=1, first_ms=at_ms, last_ms=at_ms)
    return row, reason


@dataclass
class LetterBook:
    """Adds dead letters up by reason; keeps the rows of `only`, where that names a reason."""

    only: str = ""
    letters: int = 0
    _reasons: dict[str, LetterReason] = field(default_factory=dict)
    _rows: list[LetterRow] = field(default_factory=list)

    def add(self, letters: Iterable[tuple[LetterRow, LetterReason]]) -> None:
        """Counts some."""
        for row, reason in letters:
            self.letters += 1
            self._count(row, reason)
            if self.only in ("", row.reason):
                self._rows.append(row)
        # Those of several partitions come one partition after another.
        self._rows = sorted(self._rows, key=lambda row: (-row.at_ms, row.partition, -row.offset))[:ROWS_MOST]

    @property
    def reasons(self) -> tuple[LetterReason, ...]:
        """The most frequent first."""
        return tuple(sorted(self._reasons.values(), key=lambda reason: (-reason.letters, reason.key))[:REASONS_MOST])

    @property
    def rows(self) -> tuple[LetterRow, ...]:
        """The newest first."""
        return tuple(self._rows)

    def _count(self, row: LetterRow, reason: LetterReason) -> None:
        known = self._reasons.get(row.reason)
        if known is None:
            self._reasons[row.reason] = reason
            return
        times = {"first_ms": min(known.first_ms, row.at_ms), "last_ms": max(known.last_ms, row.at_ms)}
        self._reasons[row.reason] = known.model_copy(update={"letters": known.letters + 1, **times})


def shown_letter(record: PeekedRecord, stream: StreamDocument) -> DeadLetter:
    """One of them, with as much of its payload as may be shown."""
    spec, headers = StreamSpec.model_validate(stream.spec), dict(record.headers)
    redact = kept_back(spec.input, stream)
    shown = shown_value(record.value, spec.input, inputs=stream.inputs, redact=redact)
    own = [(name, value) for name, value in record.headers if not name.startswith(CONNECT) and name not in OF_ITS_DEATH]
    notes, redacted = [shown.note] if shown.note else [], bool(redact)
    if len(own) > HEADERS_SHOWN:
        notes.append(f"{len(own) - HEADERS_SHOWN} more headers are not shown")
    exact = _text(headers, DeadLetterField.MESSAGE)[: 2 * MESSAGE_SHOWN]
    row, reason = listed_letter(record)
    return DeadLetter(
        row=row,
        reason=reason.model_copy(update={"message": exact}),
        # Producers put of a record into its key and headers what they like: where anything is kept back, so are these.
        key=KEPT_BACK if redacted and record.key is not None else _legible(record.key),
        headers=tuple((name[:200], KEPT_BACK if redacted else _legible(value)) for name, value in own[:HEADERS_SHOWN]),
        shown_as=shown.shown_as,
        value=shown.text if shown.shown_as is not ShownAs.NOTHING else "",
        note="; ".join(notes),
        trace=_text(headers, "exception.stacktrace")[-TRACE_SHOWN:],
    )


def kept_back(given: StreamInput, stream: StreamDocument) -> frozenset[str]:
    """Inputs and fields that are not shown: those that the model's document keeps back, and those that should have come
    encrypted. What came in clear instead is a dead letter for that very reason."""
    fields = frozenset(given.decrypt.fields) if given.decrypt is not None else frozenset[str]()
    sealed = frozenset(name for name in stream.inputs if given.fields.get(name, name).removeprefix("/") in fields)
    return fields | sealed | frozenset(stream.redact)


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    return (headers.get(CONNECT + name) or b"").decode(errors="replace")


def _legible(value: bytes | None) -> str:
    return "" if value is None else value[:HEADER_SHOWN].decode(errors="backslashreplace")
