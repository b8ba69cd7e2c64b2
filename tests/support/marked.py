"""Values that are known again wherever they are written, and what is written of an error."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import orjson

from cluster.error_wire import to_wire
from cluster.errors import HeadraceError
from cluster.foreign import trace_of, words_of
from consumers.stream.log.port import Partition, Records
from consumers.stream.outgoing.answers import DeadLetterReason, Stage, dead_letter_records
from deployments.gateway.grpc.errors import text_of
from deployments.gateway.http.asgi import reply_to
from deployments.observe.logs.form import LineFormatter
from deployments.observe.logs.settings import LogForm

TEXT = "Ada-Marked-of-Kent"
WHOLE = 731592
REAL = 7315.926
BYTES = b"\xf5Ada-Marked\xf5"
# Numbers are known by their first digits: what is shown of one may be rounded, or be wider.
MARKS = ("Marked", "73159", "7315.9", "0xf5", "\\xf5")


def marks_in(text: str) -> list[str]:
    """The marks that a text holds."""
    return [mark for mark in MARKS if mark in text]


def written_of(error: BaseException) -> str:
    """All that any door, log, dead letter, run or audit writes of an error, and Python itself, for loggers that are not ours."""
    kinds = (type(error), error, error.__traceback__)
    record = logging.LogRecord("cluster.test", logging.ERROR, "", 0, "it failed", (), kinds)
    parts = [words_of(error), trace_of(error), *(LineFormatter(form, {}).format(record) for form in LogForm)]
    if isinstance(error, HeadraceError):
        parts += [str(error), "".join(traceback.format_exception(error)), orjson.dumps(to_wire(error)).decode(), text_of(error)]
        parts += [reply_to(error, "POST /").body.decode(), *_letter(error)]
    return "\n".join(parts)


def _letter(error: HeadraceError) -> list[str]:
    records = Records(Partition("in", 0), 1, [0], [None], [b""], [()], [0])
    letters = dead_letter_records(records, {0: DeadLetterReason(Stage.SCORING, error)}, stream="s", topic="dead", partitions=1)
    return [(value or b"").decode("utf-8", "replace") for headers in letters.headers for _, value in headers]


def raised_by(call: Any, *arguments: Any) -> BaseException:
    """What the call raises. Raises AssertionError where it raises nothing."""
    try:
        call(*arguments)
    except Exception:  # noqa: BLE001  whatever it is, it is looked at
        error = sys.exc_info()[1]
        assert error is not None
        return error
    raise AssertionError(f"nothing was raised by {call}")
