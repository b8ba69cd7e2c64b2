"""Every error to its gRPC status: what a caller sees is the status, a text that names the fault, and when to try again."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from cluster.errors import BadArtifact, BadInput, Conflict, EngineFailure, HeadraceError, NoCapacity, NotFound, Unreachable

RETRY_AFTER_S = 1
MAX_TEXT_BYTES = 2000  # percent-encoded, thrice as long at most, it must fit into the 8 KiB that clients take of trailers

CODES: dict[type[HeadraceError], grpc.StatusCode] = {
    BadInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    NoCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unreachable: grpc.StatusCode.UNAVAILABLE,
    BadArtifact: grpc.StatusCode.INTERNAL,
    EngineFailure: grpc.StatusCode.INTERNAL,
}
TRANSIENT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


def code_of(error: HeadraceError) -> grpc.StatusCode:
    """The status of an error's kind."""
    return next(CODES[kind] for kind in (*type(error).__mro__, EngineFailure) if kind in CODES)


def text_of(error: HeadraceError) -> str:
    """The error's text, cut to what a trailer holds."""
    return str(error).encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: HeadraceError) -> NoReturn:
    """Ends the call with the error. Where a retry may help, its trailers say when: clients that retry by themselves read them."""
    code = code_of(error)
    left_s = context.time_remaining()
    if isinstance(error, NoCapacity) and left_s is not None and left_s <= 0:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    hint = (("grpc-retry-pushback-ms", str(RETRY_AFTER_S * 1000)), ("retry-after", str(RETRY_AFTER_S)))
    await context.abort(code, text_of(error), hint if code in TRANSIENT else ())
    raise AssertionError("abort raises")
