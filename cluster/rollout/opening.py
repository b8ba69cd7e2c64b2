"""Starting a rollout: what is refused, and what its first record is. Pure."""

from __future__ import annotations

from dataclasses import replace

from cluster.errors import Conflict, NotFound
from cluster.rollout.plan import Plan, is_instant
from cluster.rollout.record import Rollout
from cluster.signature import Signature, TensorSpec
from cluster.state import AuditEvent, State
from cluster.versions import Version, VersionId


def open_rollout(
    state: State, model_name: str, version: int, plan: Plan, actor: str, now_s: float, *, compatible: bool = False
) -> tuple[State, list[AuditEvent]]:
    """The state with a new PENDING rollout. None may be under way. `compatible`: a person says that callers bear its signature.

    Raises NotFound for an unknown version, Conflict where it is stable already, has another signature than stable, or lacks an
    output that the plan judges.
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
        _check_signature(stable, candidate, plan, compatible=compatible)
        for check in plan.checks.in_force().values():
            check.require(stable)
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
    detail: dict[str, object] = {"candidate": version, "stable": model.stable}
    if compatible:
        detail["compatible"] = True
    return state, [AuditEvent(now_s, model_name, rollout.id, "started", actor, detail)]


def _check_signature(stable: Version, candidate: Version, plan: Plan, *, compatible: bool) -> None:
    """Raises Conflict where callers of stable could not call the candidate, or not without somebody's word that they bear it."""
    ours, theirs = stable.signature, candidate.signature
    difference = differs(ours, theirs)
    if not difference:
        return
    wider, narrower = not differs(ours, theirs, wider=True), not differs(theirs, ours, wider=True)
    if compatible and (wider or (narrower and is_instant(plan))):
        return
    remedy = "callers would break: build it with the same inputs and outputs, or give it a model name of its own"
    if wider:
        remedy = "it answers every call of stable's: where callers bear more, `headrace rollout start --compatible`"
    elif narrower:
        remedy = "it can't share traffic with stable: where callers bear less, `rollout start --plan instant --compatible`"
    raise Conflict(f"its signature is not that of {stable.id}: {difference}", where=str(candidate.id), remedy=remedy)


def differs(stable: Signature, candidate: Signature, *, wider: bool = False) -> str:
    """In which way callers of stable could not call the candidate; empty where they could.

    With `wider`, it may have more outputs, and take any length where stable takes one: every call of stable's is still answered,
    and with the tensors that it was answered with.
    """
    for what, ours, theirs in (("input", stable.inputs, candidate.inputs), ("output", stable.outputs, candidate.outputs)):
        by_name = {spec.name: spec for spec in theirs}
        for spec in ours:
            other = by_name.pop(spec.name, None)
            if other is None:
                return f"{what} {spec.name!r} is missing"
            if other != spec and not (wider and what == "input" and _takes(other, spec)):
                now, was = f"{other.datatype} {list(other.shape)}", f"{spec.datatype} {list(spec.shape)}"
                return f"{what} {spec.name!r} is {now}, not {was}"
        if by_name and not (wider and what == "output"):
            return f"{what} {next(iter(by_name))!r} is new"
    return ""


def _takes(wider: TensorSpec, spec: TensorSpec) -> bool:
    return (
        wider.datatype is spec.datatype
        and len(wider.shape) == len(spec.shape)
        and all(wide in (-1, axis) for wide, axis in zip(wider.shape, spec.shape, strict=True))
    )
