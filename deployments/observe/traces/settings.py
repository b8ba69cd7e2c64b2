"""Where traces go, as the environment of a process says, and whether they can."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from cluster.errors import BadInput

URL_VARIABLE, RATIO_VARIABLE = "HEADRACE_TRACES", "HEADRACE_TRACE_RATIO"
USUAL_RATIO = 0.01
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """`url` is a receiver of OTLP over HTTP; `ratio` of what brings no context of its own is traced, 0 to 1."""

    url: str
    ratio: float = USUAL_RATIO

    def __post_init__(self) -> None:
        """Raises BadInput."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(
                "it must be http://HOST:PORT of a receiver of OTLP", where="traces", remedy="OTLP's usual port is 4318"
            )
        if parts.username or parts.password:
            raise BadInput(
                "a URL with a password would be seen in logs", where="traces", remedy="set OTEL_EXPORTER_OTLP_HEADERS instead"
            )
        if not 0 <= self.ratio <= 1:
            raise BadInput(f"the ratio must be from 0 to 1; got {self.ratio:g}", where="trace ratio")

    @property
    def endpoint(self) -> str:
        """Where spans are posted: OTLP's usual path where the URL has none."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=_PATH)) if parts.path in ("", "/") else self.url

    @property
    def variables(self) -> dict[str, str]:
        """What tells processes of them."""
        return {URL_VARIABLE: self.url, RATIO_VARIABLE: f"{self.ratio:g}"}


def trace_settings(environment: Mapping[str, str] | None = None) -> TraceSettings | None:
    """What the environment says; None: nothing is traced. Raises BadInput."""
    seen = os.environ if environment is None else environment
    url, ratio = seen.get(URL_VARIABLE), seen.get(RATIO_VARIABLE) or f"{USUAL_RATIO}"
    if not url:
        return None
    try:
        return TraceSettings(url, float(ratio))
    except ValueError:
        raise BadInput(f"it must be a number from 0 to 1; got {ratio[:40]!r}", where=RATIO_VARIABLE) from None


def check_can_trace() -> None:
    """Raises BadInput where OpenTelemetry is not installed here. Imports none of it."""
    if not all(_there(module) for module in _NEEDED):
        raise BadInput(
            "OpenTelemetry is not installed",
            where="traces",
            remedy="pip install 'headrace[traces]', on each node, or leave it out",
        )


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
