"""Evidence: what was observed of a version since a step began. Counts only, so that it adds up in any order."""

from __future__ import annotations

from dataclasses import dataclass

MARKS_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class EvidenceKey:
    """Whose evidence it is: `stage` is the route's stage at the time of scoring.

    Without a `caller` it is all of it; with one, the part of it that this principal sent (callers.py).
    """

    model: str
    stage: str
    version: int
    caller: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over what was scored. Rows judge answers, calls judge time.

    `errors` are rows that the version failed: neither bad input, which is the sender's fault, nor `missed` rows, which met no
    replica that took them and are not among `rows` (see blame.py). `slow` are calls above the route's `slow_ms`. `compared` rows
    were scored in shadow, `disagreed` of them differed from the stable version. `labelled` answers have met their label, and
    `loss` is the sum of what they lost, 0 to 1 each.
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
        # Name by name, which takes half as long as any loop: with a rollout under way each call is counted.
        return Counts(
            self.rows + other.rows,
            self.errors + other.errors,
            self.calls + other.calls,
            self.slow + other.slow,
            self.compared + other.compared,
            self.disagreed + other.disagreed,
            self.labelled + other.labelled,
            self.loss + other.loss,
            self.missed + other.missed,
        )

    def __sub__(self, part: Counts) -> Counts:
        """What is left without a part of it."""
        return Counts(
            self.rows - part.rows,
            self.errors - part.errors,
            self.calls - part.calls,
            self.slow - part.slow,
            self.compared - part.compared,
            self.disagreed - part.disagreed,
            self.labelled - part.labelled,
            max(self.loss - part.loss, 0.0),
            self.missed - part.missed,
        )


def mark(marks: dict[str, int], scorer: str, sequence: int) -> None:
    """Remembers what a scorer told last, as the newest. Of more than MARKS_AT_MOST the oldest go: who was not heard of for so
    long sends nothing again."""
    marks.pop(scorer, None)
    marks[scorer] = sequence
    while len(marks) > MARKS_AT_MOST:
        del marks[next(iter(marks))]


@dataclass(frozen=True, slots=True)
class EvidenceBatch:
    """What one scorer has counted since its last batch. `scorer` and `sequence` make a resend harmless."""

    scorer: str
    sequence: int
    counts: dict[EvidenceKey, Counts]
