"""What follows alarms: they are remembered, they may hold a promotion, and they may start a command. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cluster.drift.alarms import DriftAlarm, of_version, with_new
from cluster.drift.section import OnDrift
from cluster.rollout.record import Rollout
from cluster.schedule.jobs import JobSeen, RunCommand
from cluster.state import AuditEvent, State
from cluster.versions import VersionId

DRIFT = "drift"  # who does in the audit what an alarm has brought about
_NAMED = 10


def remember(state: State, new: Sequence[DriftAlarm], now_s: float, events: list[AuditEvent]) -> State:
    """The state with new alarms, and without those of versions that are gone. Tells of the new ones, version by version."""
    if not new and not state.alarms:
        return state
    alarms = with_new(state.alarms, new, state.versions)
    if alarms is state.alarms:
        return state
    for version in sorted({alarm.version for alarm in new}):
        told = [alarm for alarm in new if alarm.version == version and alarm.key in alarms and alarm.key not in state.alarms]
        if told:
            features = [f"{'output' if alarm.answer else 'input'} {alarm.feature}" for alarm in told[:_NAMED]]
            detail = {
                "version": version.number,
                "features": features,
                "alarms": len(told),
                "kinds": sorted({a.kind for a in told}),
            }
            events.append(AuditEvent(now_s, version.model, None, "drift", DRIFT, detail))
    return replace(state, alarms=alarms)


def held_by_drift(state: State, rollout: Rollout) -> str:
    """Why the rollout is not promoted though all is proven; empty where nothing of this kind is in the way.

    Only what is seen of the candidate counts, by its own profile: what came of the world before it was trained is in there.
    """
    drift = state.models[rollout.model].drift
    if drift is None or drift.on_drift is not OnDrift.HOLD or not state.alarms:
        return ""
    alarms = of_version(state.alarms, VersionId(rollout.model, rollout.candidate))
    if not alarms:
        return ""
    names = ", ".join(alarm.feature for alarm in alarms[:3]) + (f" and {len(alarms) - 3} more" if len(alarms) > 3 else "")
    return (
        f"version {rollout.candidate} is given rows unlike its profile's: {names} "
        f"(`headrace drift status {rollout.model}`; clear it, or promote by hand)"
    )


def command_job(alarm: DriftAlarm) -> str:
    """The id of the job that the alarm's episode starts, e.g. `drift-digits-v3-20261130T081500Z`."""
    at = datetime.fromtimestamp(alarm.episode_s, UTC)
    return f"drift-{alarm.version.model}-v{alarm.version.number}-{at:%Y%m%dT%H%M%SZ}"


def commands_to_ask(state: State) -> set[str]:
    """The jobs whose state the next decision needs."""
    return {command_job(alarm) for alarm in _to_run(state)} if state.alarms else set()


def run_commands(
    state: State, jobs: Mapping[str, JobSeen] | None, now_s: float, events: list[AuditEvent]
) -> tuple[State, list[RunCommand]]:
    """The state with what has been started, and what is to be."""
    if not state.alarms or jobs is None:
        return state, []
    actions: dict[str, RunCommand] = {}
    alarms = dict(state.alarms)
    for alarm in _to_run(state):
        job, version = command_job(alarm), alarm.version
        if job in jobs:
            alarms[alarm.key] = replace(alarm, ran=True)
            if not any(event.detail.get("job") == job for event in events):
                events.append(AuditEvent(now_s, version.model, None, "drift ran", DRIFT, {"version": version.number, "job": job}))
        else:
            drift = state.models[version.model].drift
            actions[job] = RunCommand(job, version.model, version.number, drift.command if drift is not None else ())
    return (replace(state, alarms=alarms) if alarms != dict(state.alarms) else state), list(actions.values())


def _to_run(state: State) -> list[DriftAlarm]:
    """Alarms whose command is not known to have been started. What stood before its model had a command starts it too."""
    found = []
    for alarm in state.alarms.values():
        model = state.models.get(alarm.version.model)
        if not alarm.ran and model is not None and model.removal is None and model.drift is not None and model.drift.command:
            found.append(alarm)
    return found
