"""How requests to score ended, and how long they took, for operators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum

from cluster.access.callers import STRANGER, Caller
from cluster.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NoCapacity,
    NotFound,
    OverQuota,
    Unauthenticated,
    Unreachable,
)
from cluster.versions import EXPLAINS
from cluster.watch.catalogue import EXPLAIN_REQUESTS, QUEUE_SECONDS, REQUEST_SECONDS, REQUESTS, RequestOutcome
from deployments.observe.meters import Meters
from deployments.observe.use_log import EXPLAINED
from deployments.scoring.port import Late

# Plain texts, which are looked up in half the time: an Enum's hash is a call in Python.
_OK = RequestOutcome.OK.value


class WireProtocol(StrEnum):
    """What a request came by."""

    HTTP = "http"
    GRPC = "grpc"


class RequestMeter:
    """Of one gateway. Each method returns at once, and never raises."""

    def __init__(self, meters: Meters, serves: Callable[[str], bool]) -> None:
        """`serves` tells whether there is such a model: only those that are get series of their own."""
        self._meters, self._serves = meters, serves

    def answered(
        self, model: str, version: str, protocol: WireProtocol, began_s: float, caller: Caller = STRANGER, rows: int = 0
    ) -> None:
        """One of that caller that began then (monotonic) got its answer now. Scorers tell how long explanations take."""
        if model.endswith(EXPLAINS):
            self._meters.uses.add(caller.name, model.removesuffix(EXPLAINS), version, protocol, EXPLAINED, rows)
            self._meters.add(EXPLAIN_REQUESTS, 1, model.removesuffix(EXPLAINS), version, protocol, RequestOutcome.OK)
            return
        self._meters.uses.add(caller.name, model, version, protocol._value_, _OK, rows)
        self._meters.add(REQUESTS, 1, model, version, protocol, RequestOutcome.OK)
        self._meters.observe(REQUEST_SECONDS, time.monotonic() - began_s, model, version, protocol)

    def failed(self, model: str, protocol: WireProtocol, error: BaseException, caller: Caller | None = None) -> None:
        """One ended with an error. Which version it was for is not always known, so none is named. Where it ended before its
        caller was known there is none."""
        metric, asked = (EXPLAIN_REQUESTS, model.removesuffix(EXPLAINS)) if model.endswith(EXPLAINS) else (REQUESTS, model)
        outcome, served = outcome_of(error), self._serves(asked)
        self._meters.add(metric, 1, asked if served else "", "", protocol, outcome)
        if caller is not None:
            self._meters.uses.add(caller.name, asked if served else "", "", protocol, outcome, 0)

    def waited(self, model: str, version: str, seconds: float) -> None:
        """One waited so long for its call to begin."""
        self._meters.observe(QUEUE_SECONDS, seconds, model, version)


def outcome_of(error: BaseException) -> RequestOutcome:
    """Whose fault it was. Pure."""
    match error:
        case asyncio.CancelledError():
            return RequestOutcome.GONE
        case OverQuota():
            return RequestOutcome.OVER_QUOTA
        case Late():
            return RequestOutcome.LATE
        case NoCapacity() | Unreachable():
            return RequestOutcome.SHED
        case BadInput() | NotFound() | Unauthenticated() | Forbidden() | Conflict():
            return RequestOutcome.REFUSED
    return RequestOutcome.FAILED
