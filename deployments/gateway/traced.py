"""What of a request is told in its trace: its wait, the call that it shares with others, and what it was about."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.observe.traces.span import Attribute, Span, current_span, unix_ns
from deployments.observe.traces.traceparent import CallerTrace
from deployments.observe.traces.tracer import Tracer


def span_of_request(tracer: Tracer, trace: CallerTrace, name: str, attributes: dict[str, Attribute]) -> Span | None:
    """That of a request which is whole now; None where it is not traced. Where the door says when its head came, it began then,
    and what is before now was at the door: to send a body may take its caller long."""
    span = tracer.begin(trace.traceparent, name, attributes)
    if span is not None and trace.came_us.isdigit():
        came_ns = min(1000 * int(trace.came_us), span.began_ns)
        span.child("door", began_ns=came_ns, ended_ns=span.began_ns)
        span.began_ns = came_ns
    return span


def span_of_call(waited: Sequence[tuple[Span, float]], begin_s: float, *, requests: int, rows: int) -> Span:
    """The span of a call that begins now (monotonic), for these requests that are traced, and since when each has waited. It is
    within the first of them; the others link to it, since a call has one place in one trace."""
    began_ns = unix_ns(begin_s)
    for span, since_s in waited:
        span.child("queue", began_ns=unix_ns(since_s), ended_ns=began_ns)
    call = waited[0][0].child("call", {"headrace.requests": requests, "headrace.rows": rows}, began_ns=began_ns)
    for span, _ in waited[1:]:
        span.links.append(call)
    return call


def tell(**attributes: Attribute) -> None:
    """Of this task's request, where it is traced: under `headrace.`."""
    span = current_span()
    if span is not None:
        span.attributes.update({f"headrace.{name}": value for name, value in attributes.items()})
