"""What processes tell of what they counted: numbered deltas, so that a resend is harmless and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple

from cluster.watch.catalogue import BY_NAME


class Series(NamedTuple):
    """One series: a metric's name, and a value for each of its labels, in their order."""

    metric: str
    labels: tuple[str, ...]

    @property
    def named(self) -> dict[str, str]:
        """The labels by their names, of a metric that the catalogue has."""
        return dict(zip(BY_NAME[self.metric].labels, self.labels, strict=True))


@dataclass(frozen=True, slots=True)
class Buckets:
    """Observations of one series: how many lie in each bucket (not cumulative; the last one is above all bounds), their sum."""

    counts: tuple[int, ...]
    total: float

    def __reduce__(self) -> tuple[type[Buckets], tuple[tuple[int, ...], float]]:
        # Pickled by its fields' names, each takes longer to read than to add up.
        return Buckets, (self.counts, self.total)

    def __add__(self, other: Buckets) -> Buckets:
        """Raises ValueError where the other has other buckets."""
        if len(self.counts) != len(other.counts):
            raise ValueError(f"{len(self.counts)} buckets and {len(other.counts)}")
        return Buckets(tuple(map(add, self.counts, other.counts)), self.total + other.total)


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """What one process counted since its last report. `gauges` are all that it has, as they are now."""

    source: str
    sequence: int
    counters: Mapping[Series, float] = field(default_factory=dict)
    histograms: Mapping[Series, Buckets] = field(default_factory=dict)
    gauges: Mapping[Series, float] = field(default_factory=dict)
