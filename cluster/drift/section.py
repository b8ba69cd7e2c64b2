"""How closely a model's rows are watched, and what follows an alarm: the `drift` section of a Model document."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator

from cluster.section import Section


class OnDrift(StrEnum):
    """What an alarm does."""

    NOTIFY = "notify"
    """It is shown, counted and audited; the alert rule on that count tells whom Alertmanager is told to tell."""
    HOLD = "hold"
    """And a rollout whose candidate has an alarm is not promoted until that is cleared, or a person promotes it."""


class RunOnDrift(Section):
    """A command that an alarm starts as a Ray job, once until all of the version's alarms are cleared: `run: [python, train.py]`.

    No shell reads it. HEADRACE_DRIFT_MODEL and HEADRACE_DRIFT_VERSION in its environment say whose alarm it is.
    """

    run: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(min_length=1, max_length=100)

    @field_validator("run", mode="before")
    @classmethod
    def _as_words(cls, run: Any) -> Any:
        return tuple(shlex.split(run)) if isinstance(run, str) else run


AnyOnDrift = Annotated[
    Annotated[OnDrift, Tag("named")] | Annotated[RunOnDrift, Tag("run")],
    Discriminator(lambda value: "named" if isinstance(value, str) else "run"),
]


class Drift(Section):
    """The `drift` section. Without one the defaults hold.

    `margin` is how far a share may lie from the profile's: so many at a half, and less towards 0 and 1 as shares spread less
    there (twice `margin` times the root of p (1 - p)).
    """

    false_alarms_a_year: float = Field(default=0.1, gt=0, le=100, description="at most so many, of rows like the profile's")
    margin: float = Field(default=0.05, ge=0, lt=0.5, description="how far from the profile's a share may lie")
    alike: int = Field(
        default=10, ge=1, le=10_000, description="so many rows may be alike, as those of one call: they count as one"
    )
    on_drift: AnyOnDrift = Field(default=OnDrift.NOTIFY, description="`notify`, `hold`, or `{run: [COMMAND, ...]}`")

    @property
    def command(self) -> tuple[str, ...]:
        """What an alarm runs; empty where nothing."""
        return self.on_drift.run if isinstance(self.on_drift, RunOnDrift) else ()
