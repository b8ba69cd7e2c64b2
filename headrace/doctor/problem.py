"""One thing that is wrong, and what to do about it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Weight(StrEnum):
    """Whether it stops Headrace from working."""

    FAULT = "fault"
    """Something will fail."""
    WARNING = "warning"
    """It works, until something else happens."""


class Problem(BaseModel):
    """`check` is the rule that found it, `where` the node, path or address."""

    model_config = ConfigDict(frozen=True)

    check: str
    weight: Weight
    where: str
    what: str
    remedy: str


def fault(check: str, where: str, what: str, remedy: str) -> Problem:
    """Something that will fail."""
    return Problem(check=check, weight=Weight.FAULT, where=where, what=what, remedy=remedy)


def warning(check: str, where: str, what: str, remedy: str) -> Problem:
    """Something that will fail once more goes wrong, or costs more than it need."""
    return Problem(check=check, weight=Weight.WARNING, where=where, what=what, remedy=remedy)
