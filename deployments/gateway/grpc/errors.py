"""Every error to its gRPC status: what a caller sees is the status, a text that names the fault, and when to try again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from cluster.errors import (
    BadArtifact,
    BadInput,
    Conflict,
    EngineFailure,
    Forbidden,
    HeadraceError,
    NoCapacity,
    NotFound,
    Unauthenticated,
    Unreachable,
)
from deployments.gateway.dataplane import OUR_FAULT

_log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
MAX_TEXT_BYTES = 2000  # percent-encoded, thrice as long at most, it must fit into the 8 KiB that clients take of trailers

CODES: dict[type[HeadraceError], grpc.StatusCode] = {
    BadInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
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


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends that is not answered. `hints` say when to try again: clients that retry by themselves read them."""

    code: grpc.StatusCode
    text: str
    hints: tuple[tuple[str, str], ...] = ()


def status_of(error: HeadraceError, left_s: float | None) -> Status:
    """The status of a call that had so much of its time left, None without a deadline."""
    code = code_of(error)
    if isinstance(error, NoCapacity) and left_s is not None and left_s <= 0:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    hints = (("grpc-retry-pushback-ms", str(RETRY_AFTER_S * 1000)), ("retry-after", str(RETRY_AFTER_S)))
    return Status(code, text_of(error), hints if code in TRANSIENT else ())


def fault_of(method: str, error: Exception) -> HeadraceError:
    """What a caller is told of an error. What is not the caller's doing is logged."""
    if not isinstance(error, HeadraceError):
        _log.error("%s", method, exc_info=error)
        return EngineFailure(OUR_FAULT)
    if code_of(error) is grpc.StatusCode.INTERNAL:
        _log.error("%s: %s", method, error)
    return error


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: HeadraceError) -> NoReturn:
    """Ends the call with the error's status."""
    status = status_of(error, context.time_remaining())
    await context.abort(status.code, status.text, status.hints)
    raise AssertionError("abort raises")
