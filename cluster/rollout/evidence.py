"""Evidence: what was observed of a version since a step began. Counts only, so that it adds up in any order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import add, attrgetter


@dataclass(frozen=True, slots=True)
class EvidenceKey:
    """Whose evidence it is: `stage` is the route's stage at the time of scoring."""

    model: str
    stage: str
    version: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over what was scored. Rows judge answers, calls judge time.

    `errors` are rows that the version failed: neither bad input, which is the sender's fault, nor `missed` rows, which met no replica
    of it that took them and are no `rows` (see blame.py). `slow` are calls above the
    route's `slow_ms`. `compared` rows were scored in shadow, `disagreed` of them differed from the stable version. `labelled`
    answers have met their label, and `loss` is the sum of what they lost, 0 to 1 each.
    """

    rows: int = 0
    errors: int = 0
    calls: int = 0
    slow: int = 0
    compared: int = 0
    disagreed: int = 0
    labelled: int = 0
    loss: float = 0.0
    missed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, _sums(self), _sums(other)))


_sums = attrgetter(*(field.name for field in fields(Counts)))


@dataclass(frozen=True, slots=True)
class EvidenceBatch:
    """What one scorer has counted since its last batch. `scorer` and `sequence` make a resend harmless."""

    scorer: str
    sequence: int
    counts: dict[EvidenceKey, Counts]
