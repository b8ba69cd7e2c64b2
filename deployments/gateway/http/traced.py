"""The span of an HTTP request to score, by OpenTelemetry's names."""

from __future__ import annotations

from collections.abc import Awaitable

from cluster.errors import HeadraceError
from deployments.gateway.http.asgi import Reply, error_reply
from deployments.gateway.traced import span_of_request
from deployments.observe.traces.span import Span
from deployments.observe.traces.traceparent import CallerTrace
from deployments.observe.traces.tracer import Tracer

LEAST_OUR_FAULT = 500


def http_span(tracer: Tracer | None, trace: CallerTrace, *, pinned: bool = False, route: str = "") -> Span | None:
    """Begins it; None where the request is not traced."""
    if tracer is None:
        return None
    route = route or f"/v2/models/{{model}}{'/versions/{version}' if pinned else ''}/infer"
    return span_of_request(tracer, trace, f"POST {route}", {"http.request.method": "POST", "http.route": route})


async def answered(tracer: Tracer | None, span: Span, work: Awaitable[Reply]) -> Reply:
    """Does the work of a traced request, and sends its trace. Raises what the work raises."""
    try:
        with span:
            reply = await work
            span.attributes["http.response.status_code"] = reply.status
            if reply.status >= LEAST_OUR_FAULT:
                span.error = str(reply.status)
            return reply
    except HeadraceError as error:
        span.attributes["http.response.status_code"] = error_reply(error).status
        raise
    finally:
        if tracer is not None:
            tracer.finish(span)
