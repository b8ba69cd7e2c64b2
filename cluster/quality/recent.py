"""Which predictions were labelled last, so that a label that is told twice counts once. In memory, and bounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

REMEMBERED_AT_MOST = 200_000
"""Over all models, some 15 MB. Beyond that the older half is forgotten: one of those that is told again then counts again."""


@dataclass(frozen=True, slots=True)
class RecentLabels:
    """Hashes of predictions, in two halves; a controller that begins anew has none."""

    young: frozenset[int] = frozenset()
    old: frozenset[int] = frozenset()

    def __contains__(self, prediction: int) -> bool:
        return prediction in self.young or prediction in self.old

    def adding(self, predictions: Iterable[int]) -> RecentLabels:
        """These and those."""
        young = self.young | frozenset(predictions)
        return RecentLabels(young, self.old) if 2 * len(young) < REMEMBERED_AT_MOST else RecentLabels(frozenset(), young)
