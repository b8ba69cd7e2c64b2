"""The candidate in shadow: it scores what stable has answered, is compared and counted, and nobody sees what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cluster.rollout.blame import Blame, blame
from cluster.routing.routes import Route
from deployments.scoring.asking import VersionAsker
from deployments.scoring.rows import Answer, Rows, all_rows, take
from deployments.scoring.senders import shares
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
            missed = shares(shadowed.senders, all_rows(rows), stable.failed, stable.failed)
            self._tally.missed(route, candidate.version, rows - len(stable.failed), missed)
            return
        answer = asked.answer
        self._tally.scored_in_shadow(route, candidate.version, rows, answer, asked.seconds)
        both = np.ones(rows, dtype=np.bool_)
        both[list(answer.failed | stable.failed)] = False
        compared = np.flatnonzero(both)
        differ = _disagreed(stable, answer, compared, route.tolerance)
        if differ and self._disagreed is not None:
            self._disagreed(shadowed, answer, compared[differ])
        blameless = answer.failed.keys() & stable.failed.keys()
        errors = len(answer.failed) - len(blameless)
        sent = shares(shadowed.senders, all_rows(rows), answer.failed, blameless)
        differed = shares(shadowed.senders, compared, differ)
        self._tally.shadowed(route, candidate.version, rows - len(blameless), errors, len(compared), len(differ), sent, differed)


def _disagreed(stable: Answer, candidate: Answer, rows: Rows, tolerance: Tolerance) -> list[int]:
    """Which of the rows differ, by their places in `rows`."""
    if len(rows) == 0:
        return []
    differ = disagreements(take(stable.outputs, rows), take(candidate.outputs, rows), tolerance)
    places: list[int] = np.flatnonzero(differ).tolist()
    return places
