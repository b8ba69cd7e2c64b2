"""The candidate in shadow: it scores what stable has answered, is compared and counted, and nobody sees what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cluster.rollout.blame import Blame, blame
from cluster.routing.routes import Route
from deployments.scoring.asking import VersionAsker
from deployments.scoring.rows import Answer, Rows, take
from deployments.scoring.shadow.compare import Tolerance, disagreements
from deployments.scoring.shadow.shadows import Shadowed
from deployments.scoring.tally import Tally


class ShadowScorer:
    """What `Shadows` gives its gathered rows to."""

    def __init__(
        self,
        asker: VersionAsker,
        tally: Tally,
        route: Callable[[str], Route | None],
        disagreed: Callable[[Shadowed, Answer, Rows], None] | None = None,
    ) -> None:
        """`route` finds a model's route as it is now; `disagreed` is told on which rows the candidate's answer differs."""
        self._disagreed = disagreed
        self._asker = asker
        self._tally = tally
        self._route = route

    async def score(self, shadowed: Shadowed) -> None:
        """Asks the candidate, and counts."""
        route, candidate, rows, stable = shadowed.route, shadowed.candidate, shadowed.rows, shadowed.stable
        now = self._route(route.model)
        if now is None or now.stage != route.stage:
            return  # the step is over: the candidate may be gone, and nobody counts this any more
        try:
            asked = await self._asker.ask(route, candidate, shadowed.tensors, route.serving.timeout_s)
        except Exception as error:
            if blame(error) is not Blame.MOMENT:
                raise
            self._tally.missed(route, candidate.version, rows - len(stable.failed))
            return
        answer = asked.answer
        self._tally.scored_in_shadow(route, candidate.version, rows, answer, asked.seconds)
        both = np.ones(rows, dtype=np.bool_)
        both[list(answer.failed | stable.failed)] = False
        compared = int(both.sum())
        different = np.flatnonzero(both)[_disagreed(stable, answer, both, route.tolerance)] if compared else np.empty(0, np.intp)
        differ = len(different)
        if differ and self._disagreed is not None:
            self._disagreed(shadowed, answer, different)
        blameless = len(answer.failed.keys() & stable.failed.keys())
        errors = len(answer.failed) - blameless
        self._tally.shadowed(route, candidate.version, rows - blameless, errors, compared, differ)


def _disagreed(stable: Answer, candidate: Answer, both: npt.NDArray[np.bool_], tolerance: Tolerance) -> npt.NDArray[np.bool_]:
    rows = np.flatnonzero(both)
    return disagreements(take(stable.outputs, rows), take(candidate.outputs, rows), tolerance)
