"""Which of a caller's rows are outliers, by the profile of the version that answered each: told only to who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from cluster.routing.routes import Route
from deployments.drift.profile_book import ProfileBook
from deployments.engines.datatypes import Array
from deployments.profiles.numbers import Floats
from deployments.profiles.outliers import OutlierScore

# Of so many values and fewer it takes less than a millisecond: not worth another thread.
FEW_VALUES = 1 << 14


class RowOutliers:
    """Used from any thread."""

    def __init__(self, book: ProfileBook) -> None:
        self._book = book

    async def of(self, route: Route, inputs: Mapping[str, Array], versions: npt.NDArray[np.int32]) -> Floats:
        """The p-value of each of n rows [n]: what share of rows like the profile's is as unlike it, or more; NaN of a row with
        another shape. Raises BadInput where a version's profile does not say what an outlier is."""
        work = partial(self.now, route, inputs, versions)
        known = all(self._book.known(route.model, target) is not None for target in route.targets.values())
        few = sum(tensor.size for tensor in inputs.values()) <= FEW_VALUES
        return work() if known and few else await asyncio.to_thread(work)

    def now(self, route: Route, inputs: Mapping[str, Array], versions: npt.NDArray[np.int32]) -> Floats:
        """The same, in this thread, which may wait for a profile to be loaded."""
        found = np.full(len(versions), np.nan)
        for number in np.unique(versions).tolist():
            score = self._score(route, number)
            rows = np.flatnonzero(versions == number)
            whole = len(rows) == len(versions)
            found[rows] = score.p_values_of(inputs if whole else {name: tensor[rows] for name, tensor in inputs.items()})
        return found

    def _score(self, route: Route, number: int) -> OutlierScore:
        target = route.targets.get(number)
        score = self._book.load(route.model, target).counting.outliers if target is not None else None
        if score is None:
            raise cannot_tell(route.model, number)
        return score


def cannot_tell(model: str, version: int) -> BadInput:
    """What is said where outliers are asked of a version whose profile says nothing of them."""
    return BadInput(
        f"nothing says what an outlier of version {version} is: it has no profile, or one of few rows",
        where=f"model {model}",
        remedy="build it again with 20 rows or more to evaluate on, or do not ask for outliers",
    )
