"""Evidence: what was observed of a version since a step began. Counts only, so that it adds up in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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

    def __reduce__(self) -> tuple[type[EvidenceKey], tuple[str, str, int, str]]:
        # Pickled by its fields' names, each takes longer to read than to count.
        return EvidenceKey, (self.model, self.stage, self.version, self.caller)


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

    def __reduce__(self) -> tuple[type[Counts], tuple[float, ...]]:
        # As above.
        judged = self.compared, self.disagreed, self.labelled, self.loss, self.missed
        return Counts, (self.rows, self.errors, self.calls, self.slow, *judged)

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


_NOTHING: Mapping[EvidenceKey, Counts] = MappingProxyType({})


class Evidence(Mapping[EvidenceKey, Counts]):
    """Counts by key, and those of a model's stage at no search: with many rollouts each is judged at every tick.

    Immutable: what adds to it or takes from it gives a copy, which shares the stages that did not change.
    """

    __slots__ = ("_stages",)

    def __init__(self, counts: Mapping[EvidenceKey, Counts] = _NOTHING) -> None:
        stages: dict[tuple[str, str], dict[EvidenceKey, Counts]] = {}
        for key, one in counts.items():
            stages.setdefault((key.model, key.stage), {})[key] = one
        self._stages = stages

    def of(self, model: str, stage: str) -> Mapping[EvidenceKey, Counts]:
        """What was counted in that stage."""
        return self._stages.get((model, stage), _NOTHING)

    def stages(self, model: str) -> list[str]:
        """The model's stages in which anything was counted."""
        return [stage for name, stage in self._stages if name == model]

    def adding(self, counts: Mapping[EvidenceKey, Counts]) -> Evidence:
        """With so much more."""
        stages = dict(self._stages)
        for about, more in Evidence(counts)._stages.items():  # noqa: SLF001 - its own
            known = stages.get(about, {})
            stages[about] = known | {key: known[key] + one if key in known else one for key, one in more.items()}
        return self._of(stages)

    def without(self, gone: Callable[[str, str], bool]) -> Evidence:
        """Without the stages of which that is true, by model and stage."""
        kept = {about: counts for about, counts in self._stages.items() if not gone(*about)}
        return self if len(kept) == len(self._stages) else self._of(kept)

    def since(self, before: Evidence) -> tuple[dict[EvidenceKey, Counts], list[EvidenceKey]]:
        """What is new or other than before, and the keys that are gone."""
        new: dict[EvidenceKey, Counts] = {}
        gone = [key for about, counts in before._stages.items() if about not in self._stages for key in counts]
        for about, counts in self._stages.items():
            was = before._stages.get(about, {})
            if counts is not was:
                new |= {key: one for key, one in counts.items() if was.get(key) != one}
                gone += [key for key in was if key not in counts]
        return new, gone

    @classmethod
    def _of(cls, stages: dict[tuple[str, str], dict[EvidenceKey, Counts]]) -> Evidence:
        made = cls()
        made._stages = stages
        return made

    def __getitem__(self, key: EvidenceKey) -> Counts:
        return self._stages[key.model, key.stage][key]

    def __iter__(self) -> Iterator[EvidenceKey]:
        return (key for counts in self._stages.values() for key in counts)

    def __len__(self) -> int:
        return sum(map(len, self._stages.values()))


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
