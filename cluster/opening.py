"""Starting a rollout: what is refused, and what its first record is. Pure."""

from __future__ import annotations

from dataclasses import replace

from cluster.errors import Conflict, NotFound
from cluster.rollout import Rollout
from cluster.rollout_plan import Plan
from cluster.signature import Signature
from cluster.state import AuditEvent, State
from cluster.versions import VersionId


def open_rollout(
    state: State, model_name: str, version: int, plan: Plan, actor: str, now_s: float
) -> tuple[State, list[AuditEvent]]:
    """The state with a new PENDING rollout. None may be under way.

    Raises NotFound for an unknown version, Conflict where it is stable already or has another signature than stable.
    """
    model = state.models[model_name]
    candidate = state.versions.get(VersionId(model_name, version))
    if candidate is None:
        known = ", ".join(str(v.id.number) for v in state.versions_of(model_name)) or "none"
        raise NotFound(f"there is no version {version}", where=f"model {model_name}", remedy=f"versions: {known}")
    if model.stable == version:
        raise Conflict("it is the stable version already", where=str(candidate.id), remedy="name another version")
    if model.stable is not None:
        stable = state.versions[VersionId(model_name, model.stable)]
        difference = differs(stable.signature, candidate.signature)
        if difference:
            raise Conflict(
                f"its signature is not that of {stable.id}: {difference}",
                where=str(candidate.id),
                remedy="callers would break: build it with the same inputs and outputs, or give it a model name of its own",
            )
    rollout = Rollout(
        id=state.last_rollout + 1,
        model=model_name,
        stable=model.stable,
        candidate=version,
        plan=plan,
        started_s=now_s,
        step_started_s=now_s,
    )
    changed = replace(model, rollout=rollout.id, considered=max(model.considered, version))
    state = replace(state.with_rollout(rollout).with_model(changed), last_rollout=rollout.id)
    detail = {"candidate": version, "stable": model.stable}
    return state, [AuditEvent(now_s, model_name, rollout.id, "started", actor, detail)]


def differs(stable: Signature, candidate: Signature) -> str:
    """In which way callers of stable could not call the candidate; empty where they could."""
    for what, ours, theirs in (("input", stable.inputs, candidate.inputs), ("output", stable.outputs, candidate.outputs)):
        by_name = {spec.name: spec for spec in theirs}
        for spec in ours:
            other = by_name.pop(spec.name, None)
            if other is None:
                return f"{what} {spec.name!r} is missing"
            if other != spec:
                now, was = f"{other.datatype} {list(other.shape)}", f"{spec.datatype} {list(spec.shape)}"
                return f"{what} {spec.name!r} is {now}, not {was}"
        if by_name:
            return f"{what} {next(iter(by_name))!r} is new"
    return ""
