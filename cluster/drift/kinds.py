"""What rates count. Apart from the arrays of counts: alarms have kinds, and who only shows them needs no numpy."""

from __future__ import annotations

from enum import StrEnum


class RateKind(StrEnum):
    """What a rate counts."""

    OUTPUT = "output"
    """An output's value is at or below a cut, or is one category."""
    INPUT = "input"
    """The same of an input."""
    MISSING = "missing"
    """The value is NaN."""
    OUT_OF_RANGE = "out of range"
    """It lies outside the profile's edges."""
    UNSEEN = "unseen"
    """It is none of the categories that the profile names."""
    OUTLIER = "outlier"
    """The row as a whole is unlike the profile's."""


KINDS = tuple(RateKind)  # their places are what `DriftReference.kind` holds; new ones go to the end
