"""What pydantic finds wrong, in words."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which field, in dots (empty: the whole), and what."""

    field: str
    words: str

    def __str__(self) -> str:
        return f"{self.field}: {self.words}" if self.field else self.words


def first_finding(error: ValidationError) -> Finding:
    """The first of them. Never holds the value that is wrong, but where a validator of ours says it."""
    first = error.errors(include_url=False, include_input=False)[0]
    return Finding(".".join(str(part) for part in first["loc"]), sentence(first))


def sentence(finding: ErrorDetails) -> str:
    """What pydantic found wrong, without its name for an error that a validator of ours raised."""
    return finding["msg"].removeprefix("Value error, ")
