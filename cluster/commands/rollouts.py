"""Commands on rollouts: starting one, steering it, and looking at it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from cluster.access.callers import Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, ModelName
from cluster.commands.known import active_rollout, has_changed, known_model, staying_model
from cluster.commands.rights import of_model, the_clusters
from cluster.decide import settle, transition
from cluster.errors import Conflict, NotFound
from cluster.rollout.checks.check import Judged
from cluster.rollout.gate import judge
from cluster.rollout.opening import open_rollout
from cluster.rollout.plan import NamedPlan, Plan, named_plan
from cluster.rollout.preflight import PreflightResult
from cluster.rollout.record import IllegalTransition, Rollout, RolloutState
from cluster.routing.table import is_ready, shares
from cluster.state import AuditEvent, State
from cluster.versions import VersionId

# Told apart by kind, so that what is wrong with one is not told as what it lacks of the other.
AnyPlan = Annotated[
    Annotated[Plan, Tag("own")] | Annotated[NamedPlan, Tag("named")],
    Discriminator(lambda value: "named" if isinstance(value, str) else "own"),
]


class StartRollout(ModelName):
    """Starts a rollout of `version` (the newest where None), with the model's plan where `plan` is None."""

    version: int | None = None
    plan: AnyPlan | None = None
    supersede: bool = False
    compatible: bool = Field(default=False, description="callers bear that its signature is wider than stable's")


class SeenRollout(Message):
    """How a rollout stood when somebody decided about it."""

    rollout: int
    state: str
    step: int


class MoveRollout(ModelName):
    """A move of the rollout under way. With `seen` it is made only if the rollout still stands so: else Conflict."""

    seen: SeenRollout | None = None


class CheckView(Message):
    """A check as it stands, in numbers and in plain words: the difference lies in [low, high] with confidence.

    `observed` is how much of the candidate it rests on: rows, calls or labels.
    """

    name: str
    low: float
    high: float
    margin: float
    verdict: Literal["passed", "failed", "waiting"]
    words: str
    observed: int = 0


class RolloutView(Message):
    """A rollout as commands show it. `weight` and `shadow` are percent now; `steps` how many the plan has. Since
    `waits_since_s` its candidate lacks what is not its own, such as its files; `reason` says what, and where."""

    id: int
    model: str
    candidate: int
    stable: int | None
    state: str
    step: int
    steps: int
    weight: float
    shadow: float
    paused: bool
    reason: str
    started_s: float
    ended_s: float | None
    checks: tuple[CheckView, ...] = ()
    preflight: str = ""
    waits_since_s: float | None = None


class TellPreflight(ModelName):
    """What came of the preflight of that rollout."""

    rollout: int
    same: int = Field(ge=0)
    different: int = Field(ge=0)
    failed: int = Field(ge=0)
    p99_ms: float = Field(ge=0)


class RolloutStatus(Message):
    """The rollout under way, or the last one, of one model; None where there was none."""

    rollout: RolloutView | None


def rollout_view(state: State, rollout: Rollout) -> RolloutView:
    """One rollout with its checks as they stand; no checks once it has ended (the audit has the last)."""
    weight, shadow = shares(rollout)
    if rollout.state is RolloutState.PROMOTED:
        weight = 10_000
    judged = judge(rollout, state.evidence) if not rollout.ended else ()
    return RolloutView(
        id=rollout.id,
        model=rollout.model,
        candidate=rollout.candidate,
        stable=rollout.stable,
        state=rollout.state.value,
        step=rollout.reached,
        steps=len(rollout.plan.steps),
        weight=weight / 100,
        shadow=shadow / 100,
        paused=rollout.state is RolloutState.PAUSED,
        reason=rollout.told,
        started_s=rollout.started_s,
        ended_s=rollout.ended_s,
        waits_since_s=rollout.wait.since_s if rollout.wait is not None else None,
        checks=tuple(check_view(check) for check in judged),
        preflight=_preflight_words(rollout),
    )


def _preflight_words(rollout: Rollout) -> str:
    """Empty where the plan asks for none."""
    if rollout.preflight is not None:
        return rollout.preflight.words
    return "under way" if rollout.awaits_preflight else ""


def check_view(check: Judged) -> CheckView:
    """One check."""
    return CheckView(
        name=check.name,
        low=check.interval.low,
        high=check.interval.high,
        margin=check.margin,
        verdict=check.verdict.value,
        words=check.words,
        observed=check.observed,
    )


def _start_rollout(at: Context, request: StartRollout) -> CommandResult:
    model = staying_model(at, request.model)
    if model.serving is None or model.plan is None:
        raise Conflict("only its versions are known", where=f"model {model.name}", remedy="`headrace apply` its document first")
    plan = named_plan(request.plan, model.plan) if isinstance(request.plan, NamedPlan) else request.plan or model.plan
    if request.version is None and not at.state.versions_of(model.name):
        raise NotFound("it has no versions", where=f"model {model.name}", remedy="`headrace build` one first")
    version = request.version if request.version is not None else at.state.versions_of(model.name)[-1].id.number
    state, events, active = at.state, list[AuditEvent](), at.state.active(model.name)
    if active is not None:
        if not request.supersede:
            raise Conflict(
                f"rollout {active.id}, to version {active.candidate}, is under way",
                where=f"model {model.name}",
                remedy="let it end, abort it, or start with supersede",
            )
        ended = active.to(RolloutState.SUPERSEDED, at.now_s, reason=f"a rollout to version {version} took its place")
        events.append(transition(active, ended, judge(active, state.evidence), at.now_s, at.actor))
        state = settle(state, ended, at.now_s)
    state, started = open_rollout(state, model.name, version, plan, at.actor, at.now_s, compatible=request.compatible)
    return _outcome(state, model.name, events + started)


def _status(at: Context, request: ModelName) -> CommandResult:
    known_model(at, request.model)
    rollout = at.state.rollout_of(request.model)
    return CommandResult(at.state, RolloutStatus(rollout=rollout_view(at.state, rollout) if rollout is not None else None))


def _pause(at: Context, request: MoveRollout) -> CommandResult:
    active = _as_seen(at, request)
    if active.state is RolloutState.PAUSED:
        return _outcome(at.state, request.model, [])
    return _move(at, active, active.to(RolloutState.PAUSED, at.now_s, reason=f"paused by {at.actor}"))


def _resume(at: Context, request: MoveRollout) -> CommandResult:
    active = _as_seen(at, request)
    if active.paused_from is None:
        return _outcome(at.state, request.model, [])
    return _move(at, active, active.to(active.paused_from, at.now_s))


def _promote(at: Context, request: MoveRollout) -> CommandResult:
    active = _as_seen(at, request)
    if active.phase is RolloutState.PENDING or not is_ready(at.apps.get(VersionId(active.model, active.candidate).app)):
        raise IllegalTransition(
            f"version {active.candidate} is not ready",
            where=f"rollout {active.id} of {active.model}",
            remedy="wait until `headrace rollout status` no longer says warming, or abort it",
        )
    return _move(at, active, active.to(RolloutState.PROMOTED, at.now_s, reason=f"promoted by {at.actor}"))


def _abort(at: Context, request: MoveRollout) -> CommandResult:
    active = _as_seen(at, request)
    return _move(at, active, active.to(RolloutState.ROLLED_BACK, at.now_s, reason=f"aborted by {at.actor}"))


def _as_seen(at: Context, request: MoveRollout) -> Rollout:
    """The rollout under way. Raises Conflict where none is, or it is not as who asks has seen it."""
    seen, known = request.seen, at.state.rollout_of(request.model)
    if seen is not None and known is not None:
        now = SeenRollout(rollout=known.id, state=known.state.value, step=known.reached)
        if now != seen:
            what = f"it has moved on: rollout {now.rollout} is {now.state} in step {now.step} now, and was seen as rollout "
            what += f"{seen.rollout}, {seen.state} in step {seen.step}"
            raise has_changed(what, f"model {request.model}")
    return active_rollout(at, request.model)


def _tell_preflight(at: Context, request: TellPreflight) -> CommandResult:
    active = active_rollout(at, request.model)
    if active.id != request.rollout or active.plan.preflight is None:
        what = f"rollout {request.rollout} is not under way, or asks for none"
        raise Conflict(what, where=f"model {request.model}", remedy="its preflight has no use any more")
    result = PreflightResult(request.same, request.different, request.failed, request.p99_ms)
    detail: dict[str, object] = {"reason": result.words, **asdict(result)}
    event = AuditEvent(at.now_s, active.model, active.id, "preflight", at.actor, detail)
    return _outcome(at.state.with_rollout(replace(active, preflight=result)), active.model, [event])


def _move(at: Context, before: Rollout, after: Rollout) -> CommandResult:
    event = transition(before, after, judge(before, at.state.evidence), at.now_s, at.actor)
    return _outcome(settle(at.state, after, at.now_s), after.model, [event])


def _outcome(state: State, model: str, events: list[AuditEvent]) -> CommandResult:
    rollout = state.rollout_of(model)
    if rollout is None:
        raise NotFound("it has had no rollout", where=f"model {model}", remedy="`headrace rollout start` one")
    return CommandResult(state, rollout_view(state, rollout), tuple(events))


_MOVES = of_model(Role.OPERATE)
START = CommandEntry("rollout.start", StartRollout, RolloutView, _start_rollout, "Starts a rollout of a version", _MOVES)
STATUS = CommandEntry(
    "rollout.status",
    ModelName,
    RolloutStatus,
    _status,
    "The rollout under way, or the last one",
    of_model(Role.VIEW),
    looks=True,
)
PREFLIGHT = CommandEntry(
    "rollout.preflight", TellPreflight, RolloutView, _tell_preflight, "Tells what came of a candidate's preflight", the_clusters
)
PAUSE = CommandEntry("rollout.pause", MoveRollout, RolloutView, _pause, "Stops the rollout where it is", _MOVES)
RESUME = CommandEntry("rollout.resume", MoveRollout, RolloutView, _resume, "Lets a paused rollout go on", _MOVES)
PROMOTE = CommandEntry(
    "rollout.promote", MoveRollout, RolloutView, _promote, "Makes the candidate stable, whatever its checks say", _MOVES
)
ABORT = CommandEntry("rollout.abort", MoveRollout, RolloutView, _abort, "Takes the candidate back now", _MOVES)
COMMANDS = (START, STATUS, PREFLIGHT, PAUSE, RESUME, PROMOTE, ABORT)
