"""Opens the tracer of a process, where anything is to be traced."""

from __future__ import annotations

import logging

from cluster.errors import BadInput
from deployments.observe.meters import Meters
from deployments.observe.traces.settings import TraceSettings, check_can_trace, trace_settings
from deployments.observe.traces.tracer import Tracer

_log = logging.getLogger(__name__)


def open_tracer(settings: TraceSettings | None, meters: Meters, service: str) -> Tracer | None:
    """The tracer of this process, which calls itself so; None where nothing is to be traced, or can't be, which is logged: no
    answer depends on it."""
    if settings is None:
        return None
    try:
        check_can_trace()
    except BadInput as error:
        _log.warning("nothing is traced: %s", error)
        return None
    # Some 40 MB and 0.2 s, had only where something is traced.
    from deployments.observe.traces.otlp import OtlpSink

    return Tracer(OtlpSink(settings.endpoint, service, meters), settings.ratio, meters)


def tracer_of(settings: TraceSettings | None, meters: Meters, service: str) -> Tracer | None:
    """By these settings, else by those of the environment, else None; see `open_tracer`. Settings that are none are logged."""
    try:
        return open_tracer(settings or trace_settings(), meters, service)
    except BadInput as error:
        _log.warning("nothing is traced: %s", error)
        return None
