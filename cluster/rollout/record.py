"""A rollout: its states, what may follow what, and its record.

    PENDING -> WARMING -> SHADOW -> CANARY -> PROMOTED
any of the first four -> PAUSED -> back to where it was; any that has not ended -> ROLLED_BACK or SUPERSEDED.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.errors import Conflict
from cluster.fleet.retry import Retry
from cluster.fleet.waiting import Wait
from cluster.rollout.illness import Illness
from cluster.rollout.misses import Misses
from cluster.rollout.plan import Plan
from cluster.rollout.preflight import PreflightResult, objection
from cluster.rollout.steps import Step


class RolloutState(StrEnum):
    """Where a rollout stands."""

    PENDING = "pending"
    """Asked for; nothing has been started yet."""
    WARMING = "warming"
    """The candidate's replicas start and check themselves; no traffic."""
    SHADOW = "shadow"
    """The candidate scores copies; nobody sees its answers."""
    CANARY = "canary"
    """The candidate answers a share of the keys."""
    PAUSED = "paused"
    """A person holds it where it is; weights stay, and proven harm still rolls it back."""
    PROMOTED = "promoted"
    """The candidate has become the stable version."""
    ROLLED_BACK = "rolled_back"
    """The stable version serves alone again."""
    SUPERSEDED = "superseded"
    """Another rollout of the model took its place."""


_S = RolloutState
LEGAL: dict[RolloutState, frozenset[RolloutState]] = {
    _S.PENDING: frozenset({_S.WARMING, _S.PAUSED, _S.ROLLED_BACK, _S.SUPERSEDED}),
    _S.WARMING: frozenset({_S.SHADOW, _S.CANARY, _S.PROMOTED, _S.PAUSED, _S.ROLLED_BACK, _S.SUPERSEDED}),
    _S.SHADOW: frozenset({_S.SHADOW, _S.CANARY, _S.PROMOTED, _S.PAUSED, _S.ROLLED_BACK, _S.SUPERSEDED}),
    _S.CANARY: frozenset({_S.CANARY, _S.PROMOTED, _S.PAUSED, _S.ROLLED_BACK, _S.SUPERSEDED}),
    _S.PAUSED: frozenset({_S.PENDING, _S.WARMING, _S.SHADOW, _S.CANARY, _S.PROMOTED, _S.ROLLED_BACK, _S.SUPERSEDED}),
    _S.PROMOTED: frozenset(),
    _S.ROLLED_BACK: frozenset(),
    _S.SUPERSEDED: frozenset(),
}
ENDED = frozenset(state for state, after in LEGAL.items() if not after)


class IllegalTransition(Conflict):
    """The rollout's state does not allow this."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout. `stable` is None for a model's first version, which is promoted as soon as it is ready.

    `step` indexes `plan.steps` and means something in SHADOW, CANARY and a PAUSED that came from them. `reached` is the
    last step begun, the first being 1. `held` says that the step's deadline has passed and the plan waits on. `warmed_s` is how
    long the candidate took to get ready. `preflight` is what came of it; None before that, or where none is
    asked for; `preflight_retry` is there where it could not be made, `wait` while the candidate lacks what is not its own.
    Times are Unix seconds.
    """

    id: int
    model: str
    stable: int | None
    candidate: int
    plan: Plan
    started_s: float
    step_started_s: float
    state: RolloutState = RolloutState.PENDING
    step: int = 0
    reached: int = 0
    held: bool = False
    reason: str = ""
    paused_from: RolloutState | None = None
    paused_s: float | None = None
    ended_s: float | None = None
    illness: Illness = field(default_factory=Illness)
    warmed_s: float = 0.0
    misses: Misses = field(default_factory=Misses)
    preflight: PreflightResult | None = None
    preflight_retry: Retry | None = None
    wait: Wait | None = None

    @property
    def salt(self) -> int:
        """Seeds the split; the same through the whole rollout, another for the next one."""
        return int.from_bytes(hashlib.sha256(f"{self.model}/{self.id}".encode()).digest()[:8], "big") >> 1

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self.state in ENDED

    @property
    def phase(self) -> RolloutState:
        """The state that decides about traffic: while paused, the one before."""
        return self.paused_from if self.paused_from is not None else self.state

    @property
    def current(self) -> Step | None:
        """The step under way; None before the first and after the end."""
        return self.plan.steps[self.step] if self.phase in (RolloutState.SHADOW, RolloutState.CANARY) else None

    @property
    def stage(self) -> str:
        """What evidence of the current step is labelled with: `r<id>.<step>`, the first step being 1 and warming 0."""
        return f"r{self.id}.{self.step + 1 if self.current else 0}"

    @property
    def awaits_preflight(self) -> bool:
        """Whether recorded requests have yet to be put to the candidate. A first version has nothing to be compared with."""
        begins = self.phase in (RolloutState.PENDING, RolloutState.WARMING)
        return begins and self.plan.preflight is not None and self.stable is not None and self.preflight is None

    @property
    def preflight_job(self) -> str:
        """The id of the job that does so: the same for this rollout and try, whoever submits it."""
        again = f"-r{self.preflight_retry.failures}" if self.preflight_retry is not None else ""
        return f"preflight-{self.model}-{self.id}-{int(self.started_s)}{again}"

    @property
    def objection(self) -> str:
        """Why the preflight ends the rollout; empty where it does not."""
        asked, came = self.plan.preflight, self.preflight
        return objection(asked, came) if asked is not None and came is not None else ""

    @property
    def told(self) -> str:
        """Why it is where it is, in words; empty where there is nothing to tell."""
        if self.wait is None:
            return self.reason
        return f"{self.reason}; {self.wait.words}" if self.paused_s is not None else self.wait.words

    def waiting(self, wait: Wait | None, now_s: float) -> Rollout:
        """The rollout with this wait, or without one: what it has waited counts neither as bake time nor towards the deadline."""
        before = self.wait
        if before is None or wait is not None:
            return replace(self, wait=wait)
        until_s = now_s if before.quiet_s is None else before.quiet_s
        if self.paused_s is not None:  # from then on the pause takes it off
            until_s = min(until_s, self.paused_s)
        began_s = min(self.step_started_s + max(until_s - before.since_s, 0.0), now_s)
        reason = self.reason if self.paused_s is not None else ""
        return replace(self, wait=None, step_started_s=began_s, held=False, reason=reason)

    def to(self, state: RolloutState, now_s: float, *, step: int | None = None, reason: str = "") -> Rollout:
        """The rollout in its next state. Raises IllegalTransition where LEGAL does not have it."""
        pause_ends = self.state is RolloutState.PAUSED and state not in ENDED
        if state not in LEGAL[self.state] or (pause_ends and state is not self.paused_from):
            raise IllegalTransition(
                f"a rollout that is {self.state} can't become {state}",
                where=f"rollout {self.id} of {self.model}",
                remedy="`headrace rollout status` shows where it stands",
            )
        if state is RolloutState.PAUSED:
            return replace(self, state=state, paused_from=self.state, paused_s=now_s, reason=reason)
        if pause_ends and self.paused_s is not None:
            # The time spent paused counts neither as bake time nor towards the deadline.
            began_s = self.step_started_s + (now_s - self.paused_s)
            return replace(self, state=state, paused_from=None, paused_s=None, step_started_s=began_s, reason=reason)
        ended_s = now_s if state in ENDED else None
        at = self.step if step is None else step
        return replace(
            self,
            state=state,
            step=at,
            reached=at + 1 if state in (RolloutState.SHADOW, RolloutState.CANARY) else self.reached,
            step_started_s=now_s,
            held=False,
            paused_from=None,
            paused_s=None,
            ended_s=ended_s,
            reason=reason,
            preflight_retry=None,
            wait=None,
        )
