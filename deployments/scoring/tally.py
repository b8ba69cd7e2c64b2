"""What a scorer tells of the versions, once a call: as evidence, while a rollout is under way, and to its meter."""

from __future__ import annotations

from cluster.errors import BadInput
from cluster.rollout.blame import Blame, blame
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.routing.routes import Route
from deployments.control.evidence_log import EvidenceLog
from deployments.observe.metering import Meter
from deployments.scoring.port import Late
from deployments.scoring.rows import Answer
from deployments.scoring.senders import NOBODY, Shares


class Tally:
    """Counts by one rule, whoever is asked: `cluster.rollout.blame` says what a failure is.

    `sent` says whose the rows were, where a rollout wants to know: what is counted is then counted of each as well, and how long
    a call took of everybody in it.
    """

    def __init__(self, log: EvidenceLog, meter: Meter) -> None:
        self._log = log
        self._meter = meter

    def metered(self, route: Route, version: int, rows: int, answer: Answer, seconds: float) -> None:
        """A version has answered, whether that is evidence or not."""
        failed = failures(answer)
        self._meter.scored(route.model, version, rows, failed, seconds, refused=len(answer.failed) - failed)

    def fell_back(self, route: Route, version: int, rows: int) -> None:
        """Stable was asked for rows that `version` did not answer."""
        self._meter.fell_back(route.model, version, rows)

    def answered(
        self,
        route: Route,
        version: int,
        rows: int,
        errors: int,
        seconds: float | None,
        blameless: int = 0,
        sent: Shares = NOBODY,
    ) -> None:
        """`blameless` of the rows, and of the errors, say nothing: no version scores them. Nor does then the time that it took
        to tell them from the others, or one that is None."""
        if not route.stage:
            return
        timed = blameless == 0 and seconds is not None
        calls, slow = int(timed), int(timed and _slow(route, seconds))
        self._add(route, version, Counts(rows - blameless, errors - blameless, calls, slow))
        for caller, (his, failed) in sent.items():
            self._add(route, version, Counts(his, failed, calls, slow), caller)

    def not_answered(
        self,
        route: Route,
        version: int,
        rows: int,
        error: Exception,
        seconds: float,
        *,
        hurried: bool,
        sent: Shares = NOBODY,
    ) -> None:
        """The whole call failed. A moment's fault is a miss, and not even that where its caller was in haste: else any client
        could have a version called ill, by deadlines that nothing can keep."""
        if blame(error) is not Blame.MOMENT:
            self.answered(route, version, rows, rows, seconds, sent={caller: (his, his) for caller, (his, _) in sent.items()})
            return
        if isinstance(error, Late):
            self.given_up(route, version, seconds, sent)
        self._meter.missed(route.model, version, rows)
        if not hurried:
            self.missed(route, version, rows, sent)

    def missed(self, route: Route, version: int, rows: int, sent: Shares = NOBODY) -> None:
        """So many rows met no replica that took them."""
        if route.stage and rows:
            self._add(route, version, Counts(missed=rows))
            for caller, (his, _) in sent.items():
                self._add(route, version, Counts(missed=his), caller)

    def given_up(self, route: Route, version: int, seconds: float, sent: Shares = NOBODY) -> None:
        """Nobody waited for the answer: nothing is known of the rows, but that it was slow may be."""
        if route.stage and _slow(route, seconds):
            for caller in ("", *sent):
                self._add(route, version, Counts(calls=1, slow=1), caller)

    def scored_in_shadow(self, route: Route, version: int, rows: int, answer: Answer, seconds: float) -> None:
        """A candidate has answered what nobody waits for, whether that is evidence or not."""
        self._meter.shadowed(route.model, version, rows, failures(answer), seconds)

    def shadowed(
        self,
        route: Route,
        version: int,
        rows: int,
        errors: int,
        compared: int,
        disagreed: int,
        sent: Shares = NOBODY,
        differed: Shares = NOBODY,
    ) -> None:
        """Gathered calls say nothing about how long a user's would take. `differed`: of the rows that were compared."""
        if not route.stage:
            return
        self._add(route, version, Counts(rows=rows, errors=errors, compared=compared, disagreed=disagreed))
        for caller, (his, failed) in sent.items():
            his_compared, his_disagreed = differed.get(caller, (0, 0))
            self._add(route, version, Counts(his, failed, compared=his_compared, disagreed=his_disagreed), caller)

    def _add(self, route: Route, version: int, counts: Counts, caller: str = "") -> None:
        self._log.add(EvidenceKey(route.model, route.stage, version, caller), counts)


def failures(answer: Answer) -> int:
    """How many rows the version failed; what was wrong in itself is its sender's."""
    return sum(not isinstance(error, BadInput) for error in answer.failed.values()) if answer.failed else 0


def _slow(route: Route, seconds: float | None) -> bool:
    return route.slow_ms is not None and seconds is not None and 1000 * seconds > route.slow_ms
