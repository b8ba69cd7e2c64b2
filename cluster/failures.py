"""Versions that should run and failed to start: what is remembered of them, so that they are tried again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.desired import needed
from cluster.ports import AppState
from cluster.retry import Retry, after_look
from cluster.rollout import RolloutState
from cluster.state import CONTROLLER, AuditEvent, State
from cluster.versions import VersionId


def note_failures(
    state: State, name: str, apps: Mapping[str, AppState], now_s: float, events: list[AuditEvent], *, outage: bool
) -> State:
    """Remembers which versions that should run have failed to start, and when each is tried again.

    A candidate's failure ends its rollout instead, but for one during an `outage`, when stable is away as well. Appends the first
    failure in a row to `events`, and what ends the row.
    """
    model, rollout = state.models[name], state.active(name)
    retries: dict[int, Retry] = {}
    if model.serving is None:
        return state
    for number in needed(state, model, now_s, grace_s=0.0):
        known, app = model.retries.get(number), apps.get(VersionId(name, number).app)
        if rollout is not None and rollout.candidate == number and not outage and (known is None or known.next_s is None):
            continue
        if rollout is not None and rollout.candidate == number and rollout.phase is RolloutState.PENDING:
            continue
        after = after_look(known, app, now_s)
        if after is not None:
            retries[number] = after
        if known is None and after is not None:
            events.append(AuditEvent(now_s, name, None, "failed", CONTROLLER, {"version": number, "reason": after.reason}))
        elif known is not None and after is None:
            events.append(AuditEvent(now_s, name, None, "recovered", CONTROLLER, {"version": number, "failures": known.failures}))
    return state if retries == model.retries else state.with_model(replace(model, retries=retries))
