"""How a stream gets past records that its broker refuses: smaller commits find which ones, and those leave as dead letters. Pure.

The broker says at most of a batch of records that one of them is refused. So after a refusal a commit holds half as much, until
one record is refused alone: it becomes a dead letter, and where that is refused too, a letter that every topic takes. Past it
the commits grow back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from consumers.stream.commits import CommitPlan
from consumers.stream.log.port import Partition, RecordRefused, RecordTooLarge

Place = tuple[Partition, int]  # a record, by where it was read


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was refused alone, and what its dead letter must be: with a `legal` key and time, and `bare` of its value."""

    error: RecordRefused
    legal: bool = False
    bare: bool = False

    def as_dead_letter(self, error: RecordRefused) -> Refused:
        """After its letter was refused as well."""
        large = isinstance(error, RecordTooLarge)
        return replace(self, legal=self.legal or not large, bare=self.bare or large)


@dataclass(frozen=True, slots=True)
class Refusals:
    """What is known of them. A commit may hold `most_rows`; None: any number.

    `suspects` are where in each partition the last refused commit ended, as far as that is not behind us. `whole_rows` is what
    the first one held. `hopeless`: all that can be done was done, and the last letter was refused still.
    """

    most_rows: int | None = None
    refused: Mapping[Place, Refused] = field(default_factory=dict)
    hopeless: bool = False
    suspects: Mapping[Partition, int] = field(default_factory=dict)
    whole_rows: int = 0

    def after_refusal(self, error: RecordRefused, plan: CommitPlan) -> Refusals:
        """Once the plan was refused."""
        whole_rows = max(self.whole_rows, plan.rows)
        if plan.rows > 1:
            return Refusals(plan.rows // 2, self.refused, False, plan.upto, whole_rows)
        (alone,) = plan.outcomes
        place = alone.partition, alone.first
        bare_error = type(error)(error.what, where=error.where, remedy=error.remedy)  # without the trace of how it got here
        before = self.refused.get(place) or (Refused(bare_error) if alone.rows_dead else None)
        after = before.as_dead_letter(bare_error) if before is not None else Refused(bare_error)
        if hopeless := after == before:
            after = replace(after, bare=False)  # whatever the topic takes next should be as much of the record as can be
        return Refusals(1, {**self.refused, place: after}, hopeless, plan.upto, whole_rows)

    def after_commit(self, plan: CommitPlan, owns: Callable[[Partition], bool]) -> Refusals:
        """Once the plan was committed. What other members have taken over is theirs to find out."""
        if self.most_rows is None:
            return self
        upto = plan.upto
        refused = {place: why for place, why in self.refused.items() if owns(place[0]) and place[1] >= upto.get(place[0], 0)}
        suspects = {
            partition: end for partition, end in self.suspects.items() if owns(partition) and upto.get(partition, 0) < end
        }
        most_rows = self.most_rows if suspects else 2 * self.most_rows
        if most_rows >= self.whole_rows and not refused and not suspects:
            return Refusals()
        return Refusals(most_rows, refused, False, suspects, self.whole_rows)
