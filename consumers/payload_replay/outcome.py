"""What became of a replay. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict


class ReplayOutcome(BaseModel):
    """Of all requests that were put to the version; what shadows answered is left out.

    `same`, `different` and `errors` count rows, `answered_errors` those that failed then and are answered now, `lasting_errors`
    those that failed then and fail now, which are among `errors`; `reasons` are the errors by kind. Times are in ms, a request.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    requests: int
    rows: int
    same: int
    different: int
    errors: int
    answered_errors: int
    lasting_errors: int
    reasons: dict[str, int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    seconds: float


def percentiles_ms(seconds: Sequence[float]) -> tuple[float, float, float, float]:
    """p50, p90, p99 and the most, in ms; 0 where there are none."""
    if not seconds:
        return 0.0, 0.0, 0.0, 0.0
    p50, p90, p99, most = (1000 * np.percentile(seconds, (50, 90, 99, 100))).tolist()
    return p50, p90, p99, most
