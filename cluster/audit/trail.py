"""What the controller records beside what it decides: uses, refusals, gaps, and which key signs the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from cluster.audit.checkpoint import AuditSigner, verifier_key
from cluster.audit.kinds import FIRST_USE, GAP, SIGNED_BY
from cluster.audit.refusals import Refusal, RefusalBook
from cluster.audit.use_records import SILENT_S, UsesTold, callers_in, record_gaps, record_uses
from cluster.audit.uses import CallerOf, UseReport
from cluster.state import CONTROLLER, AuditEvent, State
from cluster.watch.book import MetricsBook
from cluster.watch.catalogue import AUDIT_GAPS, FIRST_USES, REFUSED_COMMANDS

COUNT_EVERY_S = 600.0
MINUTE_S = 60.0


class AuditTrail:
    """Used under the controller's lock, which saves what is told here, and then says so by `saved` or `due_saved`."""

    def __init__(self, clock: Callable[[], float], metrics: MetricsBook, signer: AuditSigner | None) -> None:
        self._clock, self._metrics = clock, metrics
        self._key = verifier_key(signer.name, signer.public) if signer is not None else ""
        self._since_s = clock()
        self._told: dict[str, float] = {}  # when a process told its uses: its metrics come some seconds after its first ones
        self._refusals = RefusalBook()
        self.callers, self._counted_s = 0, -COUNT_EVERY_S
        self._acts, self._acts_since_s = Counter[str](), -MINUTE_S
        metrics.add(AUDIT_GAPS, 0)  # so that the first one is an increase

    def used(self, state: State, report: UseReport, seen: Callable[[Collection[CallerOf]], Mapping[CallerOf, float]]) -> UsesTold:
        """The state with what a process tells of uses, and its records; `seen` asks the store who is remembered. Raises what that
        raises."""
        now_s = self._told[report.source] = self._clock()
        return record_uses(state, report, seen(callers_in(report)), now_s)

    def count_callers(self, count: Callable[[], int]) -> None:
        """Now and then asks the store how many `callers` of models it remembers, so that somebody sees them grow. Raises what
        that raises."""
        now_s = self._clock()
        if not 0 <= now_s - self._counted_s < COUNT_EVERY_S:
            self.callers, self._counted_s = count(), now_s

    def act_told(self, principal: str) -> int:
        """How many acts that caller has told of in this minute, with this one."""
        now_s = self._clock()
        if not 0 <= now_s - self._acts_since_s < MINUTE_S:
            self._acts, self._acts_since_s = Counter(), now_s
        self._acts[principal] += 1
        return self._acts[principal]

    def refused(self, refusal: Refusal) -> AuditEvent | None:
        """The record to write now of a command that was refused; None for what is told later, with others."""
        self._metrics.add(REFUSED_COMMANDS, 1, refusal.command, refusal.reason)
        return self._refusals.note(refusal, self._clock())

    def not_written(self, refusal: Refusal) -> None:
        """What `refused` gave could not be saved: it is told later."""
        self._refusals.not_written(refusal, self._clock())

    def due(self, state: State) -> UsesTold:
        """What time has brought: processes that fell silent, refusals that came again, another key than before."""
        now_s = self._clock()
        self._told = {source: told_s for source, told_s in self._told.items() if now_s - told_s <= SILENT_S}
        told = record_gaps(state, self._metrics.heard(), self._told, self._since_s, now_s)
        events = (*told.events, *self._refusals.due(now_s))
        if self._key and self._key != state.audit_key:
            # Who verifies later learns here from when on another key signs; whether to believe it is his matter.
            events = (AuditEvent(now_s, "", None, SIGNED_BY, CONTROLLER, {"key": self._key}), *events)
            return UsesTold(replace(told.state, audit_key=self._key), events)
        return UsesTold(told.state, events)

    def due_saved(self, told: UsesTold) -> None:
        """What `due` gave is in the store."""
        self._refusals.written()
        self.saved(told)

    def saved(self, told: UsesTold) -> None:
        """What `used` gave is in the store."""
        for event in told.events:
            if event.event == GAP:
                self._metrics.add(AUDIT_GAPS, 1)
            elif event.event == FIRST_USE:
                self._metrics.add(FIRST_USES, 1, event.model)
