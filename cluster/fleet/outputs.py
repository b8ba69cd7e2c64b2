"""What of a model's answers leaves: the `serving.outputs` section of a Model document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from cluster.section import Section
from cluster.signature import Datatype, Signature

_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)


class OutputLimit(Section):
    """How much of one output leaves, on every way; what versions are judged by is not limited.

    `decimals` rounds. `top` keeps so many of the largest scores along the last axis; the others are 0, or as small as the
    smallest kept one where that is below 0. `label` leaves 1 for the largest score and 0 for the others;
    of a single score, 1 from 0.5 on.
    """

    decimals: int | None = Field(default=None, ge=0, le=15, description="so many places after the point")
    top: int | None = Field(default=None, ge=1, description="so many of the largest scores")
    label: bool = Field(default=False, description="only which score is the largest")

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.decimals is None and self.top is None and not self.label:
            raise ValueError("say how: decimals, top or label")
        if self.label and not (self.decimals is None and self.top is None):
            raise ValueError("label leaves no score that decimals or top could limit")
        return self


OutputLimits = Mapping[str, OutputLimit]


def misfit(limits: OutputLimits, signature: Signature) -> str:
    """Why these can't limit what a version of this signature gives, naming the output; empty where they can."""
    for name, limit in limits.items():
        spec = signature.output(name)
        if spec is None:
            return f"it has no output {name!r}; its outputs are {', '.join(one.name for one in signature.outputs)}"
        if spec.datatype not in _FLOATS:
            return f"output {name!r} is {spec.datatype}, and only floating-point outputs are limited"
        if limit.top is not None and len(spec.shape) < 2:
            return f"output {name!r} is one number a row, of which there is no top {limit.top}"
    return ""
