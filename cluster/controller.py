"""The controller: observe -> decide -> persist -> publish -> act, so that it may be killed between any two lines.

Nothing is acted on or published that was not saved before. Actions are derived afresh at every tick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cluster.access.callers import CLUSTER, Caller
from cluster.audit.checkpoint import AuditSigner
from cluster.audit.merkle import TreeHead
from cluster.audit.trail import AuditTrail
from cluster.audit.uses import SeenCallers, UseReport
from cluster.commands import dispatch
from cluster.commands.command import Context
from cluster.commands.versions import RegisterVersion
from cluster.control_plane import Told
from cluster.decide import Decision, Rest, Snapshot, decide
from cluster.drift.counts import DriftReport
from cluster.drift.following import commands_to_ask, remember
from cluster.drift.watch import DriftWatch
from cluster.errors import Fenced, HeadraceError, Unreachable
from cluster.ports import Feeds, Fleet, Jobs
from cluster.rollout.inbox import EvidenceInbox, count
from cluster.routing.changes import TableChange
from cluster.routing.published import PublishedTables
from cluster.routing.routes import RouteTable, Stamp
from cluster.schedule.due import jobs_to_ask
from cluster.state import AuditEvent, State
from cluster.store.holder import Holder
from cluster.store.port import NO_BRANCHES, Store
from cluster.troubles import TroubleLog
from cluster.watch.book import MetricsBook
from cluster.watch.reports import MetricsReport
from cluster.world import ActionResult, World, WorldSeen

_STORE, _AUDIT, _HOLDER = "store", "audit", "holder"


class Point(StrEnum):
    """Where a tick may be interrupted; a test's hook raises there."""

    OBSERVED = "observed"
    DECIDED = "decided"
    PERSISTED = "persisted"
    PUBLISHED = "published"
    BEFORE_ACTION = "before action"
    ACTED = "acted"


@dataclass(frozen=True, slots=True)
class _Taken:
    """How many of what waited a decision is made from."""

    batches: int
    alarms: int


def _no_hook(_: Point) -> None:
    return


def _trusting(_: RegisterVersion) -> None:
    return


def _keeping(_: str) -> None:
    return


class Controller:
    """One controller over one store. `tick` is called from one thread; `call`, `push` and `table` from any.

    `call` and `push` never ask the fleet, the feeds or the jobs. Raises Unreachable where the store is away, from then on until
    it is back, and Fenced for good once another controller has acquired the store.

    A look at the world costs more than all else of a tick. One that showed all as wanted is good for `look_every_s`, unless what
    is decided from it is more than to wait: then the world is looked at again first.
    """

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        feeds: Feeds,
        jobs: Jobs,
        clock: Callable[[], float],
        hook: Callable[[Point], None] = _no_hook,
        *,
        look_every_s: float = 0.0,
        check_version: Callable[[RegisterVersion], None] = _trusting,
        remove_artifact: Callable[[str], None] = _keeping,
        audit_signer: AuditSigner | None = None,
        holder: Holder | None = None,
    ) -> None:
        """`check_version` raises where no artifact stands as it is said of a version to be registered. `remove_artifact` deletes
        the one at a URI; nothing happens where there is none. `holder` is whom the store is told of; None: nobody."""
        self._check_version, self._audit_signer = check_version, audit_signer
        self._store, self._clock, self._hook, self._look_every_s = store, clock, hook, look_every_s
        self._troubles = TroubleLog()
        self._world = World(fleet, feeds, jobs, remove_artifact, clock, self._troubles)
        self._fence, self._holder = store.acquire(holder), holder
        self._state = store.load()
        self._lock = threading.Lock()  # the state and the store
        self._inbox = EvidenceInbox()
        self._metrics = MetricsBook(clock)
        self._drift = DriftWatch(clock)
        self._trail = AuditTrail(clock, self._metrics, audit_signer)
        self._must_load = False
        self._seen = WorldSeen()
        self._done = ActionResult()
        self._rests: Mapping[str, Rest] = {}
        self._tables = PublishedTables()
        self._settled = self._still = self._stirred = False

    @property
    def table(self) -> RouteTable:
        """The newest published table; the empty one before the first tick."""
        return self._tables.newest

    def news(self, after: Stamp) -> RouteTable | TableChange:
        """See `PublishedTables.news`."""
        return self._tables.news(after)

    @property
    def settled(self) -> bool:
        """Whether all was as it should be at the last look, and no rollout is under way: then the next look has time."""
        return self._settled

    @property
    def stirred(self) -> bool:
        """Whether a command has changed something since the last tick began: then the next one has no time."""
        return self._stirred

    @property
    def ready(self) -> bool:
        """Whether it has looked at the world and published since it began."""
        return self._seen.at_s > 0

    def tick(self) -> None:
        """One round. A world or store that is away ends it early and without harm: the last table stands.

        Raises Fenced.
        """
        began_s = time.monotonic()
        try:
            self._tick()
        finally:
            seen = self._seen
            self._metrics.ticked(time.monotonic() - began_s, self._state, seen.apps, seen.feeds or {}, self._drift.looks())

    def _tick(self) -> None:
        self._settled = self._stirred = False
        self._drift.tick(self._state)
        try:
            self._record_what_is_due()
            seen, decision = self._seen, self._go_on_waiting() if self._may_do_without_a_look() else None
            if decision is None:
                self._still = False
                looked = self._world.look(self._jobs_under_way)
                if looked is None:
                    return
                seen = looked
                self._hook(Point.OBSERVED)
                decision = self._decide_and_persist(seen)
        except Unreachable as trouble:
            self._troubles.note(_STORE, str(trouble))
            return
        self._troubles.note(_STORE, "")
        self._hook(Point.PERSISTED)
        self._tables.publish(decision.table)
        self._seen = seen
        self._hook(Point.PUBLISHED)
        self._done = self._world.act(decision.actions, lambda: self._hook(Point.BEFORE_ACTION))
        self._troubles.tell_faults({**decision.faults, **self._done.faults})
        self._hook(Point.ACTED)
        self._still = not decision.actions and seen.is_as_wanted
        self._settled = self._still and not _is_rolling(decision.state)
        for kind, why in self._done.troubles.items():
            self._troubles.note(kind, why)

    def renew(self) -> None:
        """Says in the store that this one lives. From any thread; blocks, and where the store is away that is noted. Raises
        Fenced."""
        if self._holder is None:
            return
        try:
            self._store.renew(self._fence, replace(self._holder, renewed_s=self._clock()))
        except Unreachable as trouble:
            self._troubles.note(_HOLDER, str(trouble))
        else:
            self._troubles.note(_HOLDER, "")

    def push(self, told: Told) -> None:
        """Takes evidence, which is counted at the next tick, or what a process counted. What was seen is not counted again.
        Uses are recorded at once, which may wait for the store.

        Raises Unreachable where so much waits for the store already that its scorer had better keep it, and for uses where it is
        away; for a drift report see `cluster.drift.inbox`.
        """
        if isinstance(told, MetricsReport):
            self._metrics.take(told)
        elif isinstance(told, UseReport):
            self._record_uses(told)
        elif isinstance(told, DriftReport):
            self._drift.take(told)
        else:
            self._inbox.push(told)

    def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        """Runs one of COMMANDS on plain JSON data for that caller; what it changes is saved before it answers.

        Raises NotFound for an unknown command, BadInput for a bad payload, Unauthenticated or Forbidden where the caller may not,
        and what the command raises. A refusal is recorded too.
        """
        try:
            return self._run(command, payload, caller)
        except HeadraceError as error:
            self._record_refusal(command, payload, caller, error)
            raise

    def _run(self, command: str, payload: dict[str, Any], caller: Caller) -> dict[str, Any]:
        request = dispatch.parse(command, payload)
        actor = dispatch.actor_of(request, caller)
        if isinstance(request, RegisterVersion):
            with self._lock:
                dispatch.check(command, request, self._current(), caller)  # a stranger has no file opened
            self._check_version(request)
        with self._lock:
            state, seen = self._current(), self._seen
            at = Context(
                state,
                seen.apps,
                seen.feeds or {},
                seen.at_s,
                self._clock(),
                self._store.audit,
                self._troubles.faults,
                actor,
                caller,
                totals=self._metrics.totals,
                history=self._metrics.history,
                troubles=self._troubles.count,
                drift=self._drift.looks,
                counted_since_s=self._metrics.since_s,
                records=self._store.audit_records,
                audit_head=self._store.audit_head,
                audit_pruned=self._store.audit_pruned,
                audit_signer=self._audit_signer,
                branches=self._store.branches,
                seen_callers=self._trail.callers,
                act_told=self._trail.act_told,
            )
            outcome, events = dispatch.run(command, request, at)
            self._stirred |= outcome.state is not state
            self._persist(outcome.state, events, outcome.prune, branches=outcome.branches)
        return outcome.answer.model_dump(mode="json")

    def _record_uses(self, report: UseReport) -> None:
        with self._lock:
            told = self._trail.used(self._current(), report, self._store.seen)
            self._persist(told.state, told.events, seen=told.seen)
            self._trail.saved(told)

    def _record_what_is_due(self) -> None:
        """Where it can't be saved it stays due, and the tick goes on: most ticks save nothing."""
        with self._lock:
            told = self._trail.due(self._current())
            try:
                self._persist(told.state, told.events)
                self._trail.due_saved(told)  # at once: else it were told again where what follows fails
                self._trail.count_callers(self._store.seen_count)
            except Unreachable as trouble:
                self._troubles.note(_AUDIT, str(trouble))
            else:
                self._troubles.note(_AUDIT, "")

    def _record_refusal(self, command: str, payload: dict[str, Any], caller: Caller, error: HeadraceError) -> None:
        """What can't be saved now is told later: the caller is to hear why he was refused."""
        with self._lock:
            refusal = dispatch.refusal_of(command, payload, caller, self._state, error)
            event = self._trail.refused(refusal) if refusal is not None else None
            if refusal is None or event is None:
                return
            try:
                self._persist(self._current(), (event,))
            except (Unreachable, Fenced) as trouble:
                self._trail.not_written(refusal)
                self._troubles.note(_AUDIT, str(trouble))

    def _may_do_without_a_look(self) -> bool:
        now_s = self._clock()
        if not self._still or not 0 <= now_s - self._seen.at_s < self._look_every_s:  # also where the clock was set back
            return False
        return not self._jobs_under_way()

    def _go_on_waiting(self) -> Decision | None:
        """The decision on the last look, saved; None where it is more than to wait: an old look is no ground for that."""
        with self._lock:
            decision, taken = self._decide(self._seen)
            if decision.actions or decision.events or decision.table.number != self.table.number:
                return None
            self._keep(decision, taken)
            return decision

    def _jobs_under_way(self) -> set[str]:
        """Whose state the next decision needs."""
        with self._lock:
            state = self._current()
            return jobs_to_ask(state, self._clock()) | commands_to_ask(state)

    def _decide_and_persist(self, seen: WorldSeen) -> Decision:
        with self._lock:
            decision, taken = self._decide(seen)
            self._keep(decision, taken)
            return decision

    def _decide(self, seen: WorldSeen) -> tuple[Decision, _Taken]:
        """What to do, with so much of what waited counted."""
        batches, alarms, told = self._inbox.waiting(), self._drift.waiting(), list[AuditEvent]()
        state = remember(self._current(), alarms, self._clock(), told)
        counted, done = count(state, batches), self._done
        failures = done.refused, done.unscalable, done.removed
        snapshot = Snapshot(counted, seen.apps, seen.feeds, *failures, self.table, self._fence, seen.jobs, self._rests)
        decision = decide(snapshot, self._clock())
        self._hook(Point.DECIDED)
        return replace(decision, events=(*told, *decision.events)), _Taken(len(batches), len(alarms))

    def _keep(self, decision: Decision, taken: _Taken) -> None:
        self._persist(decision.state, decision.events)
        self._rests = decision.rests
        self._inbox.saved(taken.batches)
        self._drift.saved(taken.alarms)
        # What was refused stands until it is tried again.
        self._done = replace(self._done, unscalable=frozenset(), removed=frozenset())

    def _current(self) -> State:
        if self._must_load:
            self._state = self._store.load()
            self._must_load = False
        return self._state

    def _persist(
        self,
        after: State,
        events: tuple[AuditEvent, ...],
        prune: TreeHead | None = None,
        seen: SeenCallers | None = None,
        branches: Mapping[str, bytes] = NO_BRANCHES,
    ) -> None:
        if after is self._state and not events:
            return
        try:
            if prune is not None:
                self._store.prune(self._fence, prune, events)
            else:
                self._store.save(self._fence, self._state, after, events, seen, branches)
        except Unreachable:
            # It may have been saved all the same: what the store has is the truth.
            self._must_load = True
            raise
        self._state = after


def _is_rolling(state: State) -> bool:
    return any(state.active(name) is not None for name in state.models)
