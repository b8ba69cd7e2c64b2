"""Starting a rollout: what is refused, and what its first record is. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from cluster.errors import Conflict, NotFound
from cluster.rollout.plan import Loss, Plan, is_instant
from cluster.rollout.record import Rollout
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.state import AuditEvent, State
from cluster.versions import Version, VersionId

FLOATS = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16})


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
        _check_outputs(plan, stable)
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


def _check_outputs(plan: Plan, stable: Version) -> None:
    """Raises Conflict where the plan judges an output that there is not, or in a way that it can't be judged."""
    check, labels = plan.checks.disagreement, plan.checks.labels
    for name in check.tolerance if check is not None and isinstance(check.tolerance, dict) else {}:
        if stable.signature.output(name) is None:
            raise _no_output(stable, name, "rollout.checks.disagreement.tolerance")
    if labels is None:
        return
    spec = stable.signature.output(labels.output)
    if spec is None:
        raise _no_output(stable, labels.output, "rollout.checks.labels.output")
    one_number = math.prod(spec.shape[1:]) == 1 and spec.datatype is not Datatype.BYTES
    classes = len(spec.shape) == 2 and spec.datatype in FLOATS
    if not (one_number or (labels.loss is Loss.WRONG and classes)):
        raise Conflict(
            f"output {spec.name!r} is {spec.datatype} {list(spec.shape)}: no label can be held against that",
            where="rollout.checks.labels",
            remedy="name an output of one number a row; for loss wrong, one of a score for each class will do too",
        )


def _no_output(stable: Version, name: str, where: str) -> Conflict:
    known = ", ".join(spec.name for spec in stable.signature.outputs)
    return Conflict(f"{stable.id} has no output {name!r}", where=where, remedy=f"its outputs: {known}")


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
