"""The `explain` section of a Stream document."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from cluster.section import Section
from deployments.explain.asking import ExplainSection

# What a condition may compare: an input or an output with one value a row, or the class or the largest value of a wider output.
NAME_PATTERN = r"^((argmax|max)\([^()]+\)|[^()]+)$"


class Comparison(StrEnum):
    """How a condition compares."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


class ExplainWhere(Section):
    """One condition, written `[NAME, OPERATOR, VALUE]`."""

    name: str = Field(pattern=NAME_PATTERN)
    operator: Comparison
    value: bool | int | float | str

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, list | tuple) and len(value) == 3:
            return dict(zip(("name", "operator", "value"), value, strict=True))
        return value

    @model_validator(mode="after")
    def _orders_numbers(self) -> Self:
        if isinstance(self.value, str) and self.operator not in (Comparison.EQUAL, Comparison.UNEQUAL):
            raise ValueError(f"{self.operator} compares numbers; got {self.value!r}")
        return self


class StreamExplain(ExplainSection):
    """Writes why records were answered so to a topic of its own, by a consumer group of its own, called like the stream's with
    `-explain` behind it: scoring never waits for it.

    `sample` is the share of records, chosen by their place in the input, so again the same. `where` are conditions
    `[NAME, OPERATOR, VALUE]`, all of which must hold, on inputs and outputs with one value a row, on `argmax(OUTPUT)` and on
    `max(OUTPUT)`; one on an output has each record of the sample scored once more. What can't be decoded is a dead letter of the
    stream itself, and is passed over here.
    """

    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    partitions: int = Field(default=4, ge=1)
    sample: float | None = Field(default=None, gt=0, le=1, description="all that `where` chooses where left out")
    where: tuple[ExplainWhere, ...] = Field(default=(), max_length=20)
    top: int | None = Field(
        default=None, ge=1, le=1000, description="names and values of so many of the strongest features in place of all"
    )
    from_beginning: bool = Field(
        default=False, description="explain what the input held before the first start too, not only what comes after it"
    )

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        if self.sample is None and not self.where:
            raise ValueError("say which records are explained: sample (1 for all), where, or both")
        return self
