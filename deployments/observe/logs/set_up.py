"""Sets up how a process logs, as it starts: the one place for all of them.

Serve sends what a replica writes to stderr to its log as of level INFO, and with its access log off drops that; the rest it keeps
in memory until an error comes. So our modules' lines go to Serve's own handlers there, and are written at once.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from cluster.errors import BadInput
from cluster.foreign import trace_of
from deployments.observe.logs.form import LineFormatter, note
from deployments.observe.logs.left_out import LeftOut
from deployments.observe.logs.settings import LogSettings, log_settings

SERVE_LOGGER = "ray.serve"
# The last two tell of faults that nobody awaits, or that a request meets before it is ours: with all their words, by themselves.
PACKAGES = ("cluster", "deployments", "consumers", "headrace", "opentelemetry", "asyncio", "uvicorn.error")

_log = logging.getLogger(__name__)


def log_with_serve(**about: Any) -> None:
    """From now on, in this process, which is a replica. Called as it starts; safe to repeat. `about` is true of all its lines:
    see `form.ABOUT`."""
    settings = _settings()
    _set_up(_to_serve(LineFormatter(settings.form, about)), settings, about)


def log_to_stderr(**about: Any) -> None:
    """The same in any other process."""
    settings = _settings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(settings.form, about))
    _set_up(handler.handle, settings, about)


Write = Callable[[logging.LogRecord], Any]


class _Limited(logging.Handler):
    """Writes what passes, and how many did not."""

    def __init__(self, write: Write, about: Mapping[str, Any]) -> None:
        super().__init__()
        self._write, self._about, self._left_out = write, about, LeftOut()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by loggers."""
        for told in (*self._left_out.due(), *([record] if self._left_out.passes(record) else [])):
            note(told, self._about)
            self._write(told)


def _set_up(write: Write, settings: LogSettings, about: Mapping[str, Any]) -> None:
    handler = _Limited(write, about)
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(settings.level.number)
        logger.propagate = False
    # Python's own print the text of whatever ends a thread or the process. One that somebody else has set stays.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_ended
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _process_ends
    _log.info("process %d has started", os.getpid())


def _thread_ended(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        _log.error("a thread has ended", exc_info=told.exc_value)


def _process_ends(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    sys.stderr.write(trace_of(error))


def _to_serve(formatter: logging.Formatter) -> Write:
    serve = logging.getLogger(SERVE_LOGGER)

    def write(record: logging.LogRecord) -> None:
        for handler in serve.handlers:  # Serve may give it other ones at any time
            getattr(handler, "target", handler).setFormatter(formatter)
        serve.handle(record)
        for handler in serve.handlers:
            handler.flush()

    return write


def _settings() -> LogSettings:
    try:
        return log_settings()
    except BadInput as error:
        _log.warning("logs are as usual: %s", error)
        return LogSettings()
