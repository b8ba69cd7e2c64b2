"""One step of a rollout: what follows from its candidate as seen, from the checks and from the clock. Pure."""

from __future__ import annotations

from dataclasses import replace

from cluster.fleet.waiting import Wait
from cluster.ports import AppState, AppStatus
from cluster.rollout.checks.check import Judged, Verdict
from cluster.rollout.illness import lasts, too_ill
from cluster.rollout.misses import missing
from cluster.rollout.plan import OnDeadline
from cluster.rollout.record import Rollout, RolloutState
from cluster.routing.table import is_ready
from cluster.schedule.jobs import JobSeen, JobState


def next_of(
    rollout: Rollout,
    app: AppState | None,
    job: JobSeen | None,
    judged: tuple[Judged, ...],
    now_s: float,
    *,
    outage: bool,
    again: bool,
) -> Rollout:
    """One step of the rollout, or the rollout itself where nothing is due. The order of the rules is their weight.

    `job` is the preflight's, where it is seen. `outage`: stable is away as well. `again`: the candidate failed during one, or for
    what is not its own, and is tried again.
    """
    if rollout.phase is RolloutState.PENDING:
        # What an earlier try of the version left behind goes first; until then it says nothing about this one.
        gone = app is None or app.status is not AppStatus.FAILED
        return rollout.to(RolloutState.WARMING, now_s) if gone and rollout.state is RolloutState.PENDING else rollout
    ended = _beyond_hope(rollout, app, now_s, again=again) or _grounded(rollout, job)
    if ended:
        return rollout.to(RolloutState.ROLLED_BACK, now_s, reason=ended)
    harm = next((check for check in judged if check.verdict is Verdict.FAILED), None)
    if harm is not None:
        return rollout.to(RolloutState.ROLLED_BACK, now_s, reason=harm.words)
    if rollout.state is RolloutState.PAUSED:
        return rollout
    if rollout.wait is not None:
        return _wait_on(rollout, rollout.wait, now_s, outage=outage)
    late = now_s - rollout.step_started_s >= rollout.plan.deadline_s
    if rollout.state is RolloutState.WARMING:
        if is_ready(app) and not rollout.awaits_preflight:
            return _enter(rollout, 0, now_s) if rollout.stable is not None else rollout.to(RolloutState.PROMOTED, now_s)
        if late and not outage:
            why = f"not ready within {rollout.plan.deadline_s:g} s (last seen: {_last_seen(app)})"
            return rollout.to(RolloutState.ROLLED_BACK, now_s, reason=why)
        return rollout
    return _judge_step(rollout, app, judged, now_s, late=late and not outage)


def _wait_on(rollout: Rollout, wait: Wait, now_s: float, *, outage: bool) -> Rollout:
    """Nothing is known against the candidate, but the plan bounds every wait."""
    deadline_s = rollout.plan.deadline_s
    if rollout.held or outage or now_s - wait.since_s < deadline_s:
        return rollout
    why = f"what its candidate takes to start was away for {deadline_s:g} s: {wait.why}"
    if rollout.plan.on_deadline is OnDeadline.ROLLBACK:
        return rollout.to(RolloutState.ROLLED_BACK, now_s, reason=why)
    return replace(rollout, held=True, reason=why)


def _beyond_hope(rollout: Rollout, app: AppState | None, now_s: float, *, again: bool) -> str:
    """Why what is seen of the candidate's replicas ends its rollout; empty where it does not."""
    missed = missing(rollout.misses, rollout.warmed_s)
    if missed:
        return f"the candidate misses its calls {missed}"
    if app is None or app.status not in (AppStatus.FAILED, AppStatus.UNHEALTHY):
        return ""
    why = app.message or "no reason given"
    if app.status is AppStatus.FAILED:
        return "" if again else f"the candidate is {app.status}: {why}"
    how = too_ill(rollout.illness, now_s, rollout.warmed_s)
    return f"the candidate is {app.status} {how}: {why}" if how else ""


def _grounded(rollout: Rollout, job: JobSeen | None) -> str:
    """Why the preflight ends the rollout before it has any traffic; empty where it does not."""
    if rollout.phase is not RolloutState.WARMING:
        return ""
    if not rollout.awaits_preflight or job is None or job.state is JobState.RUNNING:
        return rollout.objection
    return f"its preflight could not be made: {job.message or 'the job ended without a word'}"


def _last_seen(app: AppState | None) -> str:
    if is_ready(app):
        return "ready, its preflight not over"
    return f"{app.status}, {app.message or 'no message'}" if app is not None else "not started"


def _judge_step(rollout: Rollout, app: AppState | None, judged: tuple[Judged, ...], now_s: float, *, late: bool) -> Rollout:
    step = rollout.plan.steps[rollout.step]
    # A step of 0 s asks for no proof: blue/green and going back at once are such plans.
    passed = rollout.misses.takes_its_share and all(check.verdict is Verdict.PASSED for check in judged)
    proven = step.bake_s == 0 or passed
    if proven and is_ready(app) and now_s - rollout.step_started_s >= step.bake_s:
        return _enter(rollout, rollout.step + 1, now_s)
    if late and not is_ready(app) and lasts(rollout.illness, now_s, rollout.warmed_s):
        why = f"not ready, and the step's {rollout.plan.deadline_s:g} s are over"
        return rollout.to(RolloutState.ROLLED_BACK, now_s, reason=why)
    if not late or rollout.held or not is_ready(app):
        return rollout
    waiting = "; ".join(check.words for check in judged if check.verdict is Verdict.WAITING) or rollout.misses.words
    why = f"neither proven good nor bad within {rollout.plan.deadline_s:g} s: {waiting}"
    # Where one caller alone is in the way, a person looks at it.
    one_alone = rollout.misses.only or any(check.unless for check in judged)
    if rollout.plan.on_deadline is OnDeadline.ROLLBACK and not one_alone:
        return rollout.to(RolloutState.ROLLED_BACK, now_s, reason=why)
    return replace(rollout, held=True, reason=why)


def _enter(rollout: Rollout, step: int, now_s: float) -> Rollout:
    if step == len(rollout.plan.steps):
        return rollout.to(RolloutState.PROMOTED, now_s, reason="every step passed")
    state = RolloutState.CANARY if rollout.plan.steps[step].weight > 0 else RolloutState.SHADOW
    if rollout.state is RolloutState.WARMING:
        rollout = replace(rollout, warmed_s=now_s - rollout.step_started_s)
    return rollout.to(state, now_s, step=step)
