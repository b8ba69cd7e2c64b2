"""What took how long in something that is traced: plain objects, made into OpenTelemetry's when the whole of it is over.

Who works for a traced request finds its span in the context of its task, and adds to it; for all others there is none, and
nothing is done.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from contextvars import ContextVar, Token
from enum import Enum
from types import TracebackType
from typing import Self

from deployments.observe.traces.traceparent import written

Attribute = str | int | float | bool


class SpanKind(Enum):
    """As OpenTelemetry has them."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span:
    """One piece of work with the pieces within it. As a context manager it is the task's current one, and ends with the block.

    Times are Unix ones, in nanoseconds. `links` are spans of other traces, or of this one, that did this one's work too. `error`
    is the name of a kind, never a text. What is added once it is `over` is lost: its trace has been sent.
    """

    __slots__ = (
        "_token",
        "attributes",
        "began_ns",
        "children",
        "ended_ns",
        "error",
        "kind",
        "links",
        "name",
        "over",
        "parent_id",
        "span_id",
        "trace_id",
    )

    def __init__(
        self,
        name: str,
        trace_id: int,
        parent_id: int = 0,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        began_ns: int | None = None,
        attributes: dict[str, Attribute] | None = None,
    ) -> None:
        self.name, self.trace_id, self.parent_id, self.kind = name, trace_id, parent_id, kind
        self.span_id = random.getrandbits(64) or 1
        self.began_ns = time.time_ns() if began_ns is None else began_ns
        self.ended_ns = 0
        self.attributes: dict[str, Attribute] = {} if attributes is None else attributes
        self.children: list[Span] = []
        self.links: list[Span] = []
        self.error = ""
        self.over = False
        self._token: Token[Span | None] | None = None

    def child(
        self,
        name: str,
        attributes: dict[str, Attribute] | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        began_ns: int | None = None,
        ended_ns: int = 0,
    ) -> Span:
        """A piece of it, which begins now unless told otherwise."""
        made = Span(name, self.trace_id, self.span_id, kind=kind, began_ns=began_ns, attributes=attributes)
        made.ended_ns = ended_ns
        self.children.append(made)
        return made

    def end(self, error: BaseException | None = None) -> None:
        """It is done now, unless it was before."""
        if not self.ended_ns:
            self.ended_ns = time.time_ns()
            if error is not None:
                self.error = type(error).__name__

    @property
    def traceparent(self) -> bytes:
        """The header by which others go on under it."""
        return written(self.trace_id, self.span_id)

    def all(self) -> Iterator[Span]:
        """It and what is within it."""
        yield self
        for child in self.children:
            yield from child.all()

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._token is not None:
            _current.reset(self._token)
        self.end(error)


_current: ContextVar[Span | None] = ContextVar("headrace_span", default=None)


def current_span() -> Span | None:
    """The one that this task works for; None where it is not traced, or what it worked for is over."""
    span = _current.get()
    return None if span is None or span.over else span


@contextlib.contextmanager
def during(span: Span) -> Iterator[None]:
    """What is begun within the block works for the span, which may end later."""
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


def unix_ns(monotonic_s: float) -> int:
    """When that was, of a time that was taken by `time.monotonic` in this process."""
    return time.time_ns() - time.monotonic_ns() + round(monotonic_s * 1e9)
