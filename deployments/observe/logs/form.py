"""A line of a log: when, how bad, who, what, and of which trace, request, model, version, stream or batch it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

from cluster.foreign import trace_of
from deployments.observe.logs.settings import LogForm
from deployments.observe.traces.span import current_span

# What a line may be about. Who logs gives them as `extra`; a process knows some of all its lines.
ABOUT = ("model", "version", "stream", "batch", "replica", "request_id", "trace_id", "span_id")
_ErrorInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_ABOUT = "headrace_about"  # where they wait in a record until it is written


def note(record: logging.LogRecord, process: Mapping[str, Any]) -> None:
    """Notes what is known now, in the task that logs: a handler may write the line later, and elsewhere."""
    about = {name: record.__dict__[name] for name in ABOUT if name in record.__dict__}
    span = current_span()
    if span is not None:
        told = {name: value for name in ABOUT if (value := span.attributes.get(f"headrace.{name}"))}
        about = {**told, "trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}", **about}
    setattr(record, _ABOUT, {**process, **about})


class LineFormatter(logging.Formatter):
    """Writes records in one form, whoever made them. Those that nobody has noted are about what all of the process are."""

    def __init__(self, form: LogForm, process: Mapping[str, Any]) -> None:
        super().__init__()
        self._form, self._process = form, dict(process)

    def format(self, record: logging.LogRecord) -> str:
        """Called by handlers."""
        about: dict[str, Any] = getattr(record, _ABOUT, self._process)
        trace = self._trace(record)
        level = record.levelname.lower()
        if self._form is LogForm.JSON:
            line = {
                "time": _utc(record.created),
                "level": level,
                "logger": record.name,
                "message": record.getMessage(),
                **about,
                **({"exception": trace} if trace else {}),
            }
            return orjson.dumps(line, default=str).decode()
        words = "".join(f" {name}={value}" for name, value in about.items())
        said = f"{_utc(record.created)} {level.upper()} {record.name}: {record.getMessage()}{words}"
        return f"{said}\n{trace}" if trace else said

    def formatException(self, ei: _ErrorInfo) -> str:  # noqa: N802  logging's own name
        """The trace, without values that libraries quote."""
        return trace_of(ei[1]).rstrip("\n") if ei[1] is not None else ""

    def _trace(self, record: logging.LogRecord) -> str:
        # What another formatter has made of the error, and left in the record, may quote values.
        shown = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        return f"{shown}\n{record.stack_info}" if record.stack_info else shown


def _utc(created_s: float) -> str:
    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
