"""A step of a rollout, as the `rollout` section of a Model document has it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cluster.section import Section


class Step(Section):
    """One step. `weight` and `shadow` are percent of traffic, to 0.01; a shadow step has weight 0.

    It lasts `bake_s` at least, and until its checks have passed; one of 0 s asks for no proof, and is over at once.
    """

    weight: float = Field(default=0.0, ge=0, le=100)
    shadow: float = Field(default=0.0, ge=0, le=100)
    bake_s: float = Field(default=30.0, ge=0)

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.weight > 0) == (self.shadow > 0):
            raise ValueError("a step has either a weight or a shadow share above 0")
        return self

    @property
    def alone(self) -> bool:
        """Whether the candidate answers everything in it."""
        return self.weight >= 100
