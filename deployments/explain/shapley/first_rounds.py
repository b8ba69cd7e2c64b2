"""What the rows of one call have in common: orders follow from the seed alone, steps from the orders and from what differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from deployments.explain.features import Places
from deployments.explain.form import Floats
from deployments.explain.mixing import Masks
from deployments.explain.shapley.orders import spread_keys
from deployments.explain.shapley.steps import StepPlan

Portion = tuple[Places, StepPlan]
# Of so many keys it is worth to keep what follows from them: of more, walking takes far longer than planning.
MOST_KEPT_KEYS = 1 << 13
# Rows of which other groups differ have plans of their own.
MOST_KEPT_PLANS = 8


class FirstRounds:
    """For all rows of one call with one seed. Of one thread."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys: dict[tuple[int, ...], Floats] = {}
        self._plans: dict[tuple[bytes, int, int], list[Portion]] = {}

    def drawn(self, rounds: int, rows: int, size: int) -> Floats:
        """The first rounds of keys, [rounds, rows, size]."""
        shape = rounds, rows, size
        if (known := self._keys.get(shape)) is not None:
            return known
        drawn = np.stack(list(islice(self.later(0, rows, size), rounds)))
        if _few(shape):
            self._keys[shape] = drawn
        return drawn

    def later(self, rounds: int, rows: int, size: int) -> Iterator[Floats]:
        """The rounds of keys after so many, [rows, size] each."""
        return islice(spread_keys(np.random.default_rng(self._seed), rows, size), rounds, None)

    def plans(
        self, differing: Masks, rounds: int, rows: int, made: Iterable[tuple[Places, StepPlan]]
    ) -> Iterable[tuple[Places, StepPlan]]:
        """The portions of the first rounds with their plans: those `made`, or the same that an earlier row had."""
        if not _few((rounds, rows, differing.shape[1])):
            return made
        key = differing[:rows].tobytes(), rounds, rows
        if (known := self._plans.get(key)) is None:
            known = list(made)
            if len(self._plans) < MOST_KEPT_PLANS:
                self._plans[key] = known
        return known


def _few(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= MOST_KEPT_KEYS
