"""How a model's versions are served: resources, scaling, transport. A section of the Model document."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from cluster.fleet.outputs import OutputLimit
from cluster.section import Section

LEAST_MEMORY_BYTES = 100_000_000  # what a replica holds before it loads anything


class TransportKind(StrEnum):
    """Where a scorer finds the engine."""

    REMOTE = "remote"
    EMBEDDED = "embedded"


class ScalingMode(StrEnum):
    """Who decides how many replicas run."""

    AUTO = "auto"
    MANUAL = "manual"


class Resources(Section):
    """What one replica asks of a node. `node_labels` are matched exactly, e.g. `{"pool": "gpu"}`."""

    cpus: float = Field(default=1.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)
    accelerator_type: str | None = None
    node_labels: dict[str, str] = Field(default_factory=dict)


class Scaling(Section):
    """`auto`: between `min` and `max` by requests under way a replica. `manual`: `replicas` until a person changes it."""

    mode: ScalingMode = ScalingMode.AUTO
    min: int = Field(default=1, ge=0)
    max: int = Field(default=4, ge=1)
    target_ongoing: float = Field(default=2.0, gt=0)
    replicas: int = Field(default=1, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """`scaling: manual` is short for `scaling: {mode: manual}`."""
        return {"mode": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Serving(Section):
    """The `serving` section of a Model document."""

    transport: TransportKind = Field(
        default=TransportKind.REMOTE, description="`embedded`: callers hold the model too, in their processes and on the CPU"
    )
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    max_batch_rows: int = Field(default=2048, ge=1)
    max_ongoing: int = Field(default=16, ge=1, description="requests one replica takes at a time")
    timeout_s: float = Field(default=10.0, gt=0, description="a request without its own deadline ends after this")
    refuse_nan: bool = Field(default=True, description="refuse rows with a missing value (null, NaN) in a floating-point input")
    outputs: dict[str, OutputLimit] = Field(
        default_factory=dict, description="by an output's name, how much of it leaves (docs/privacy.md)"
    )
    threads: int = Field(default=1, ge=1, description="engine threads a replica")
    memory_bytes: int | None = Field(
        default=None, ge=LEAST_MEMORY_BYTES, description="what one replica may hold; one that holds more is ended and replaced"
    )


def _gpus_make_sense(serving: Serving) -> Serving:
    gpus = serving.resources.gpus
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"Ray gives a share of one GPU, or whole ones; got `gpus: {gpus:g}`")
    if serving.transport is TransportKind.EMBEDDED and gpus > 0:
        raise ValueError(
            "with `transport: embedded` callers hold the model themselves and score on the CPU, so `resources.gpus` would stand "
            "idle: take `transport: remote`, or no `gpus`"
        )
    return serving


# What a person may ask for. `Serving` itself bears more: a store may hold it from before this was looked at.
AskedServing = Annotated[Serving, AfterValidator(_gpus_make_sense)]
