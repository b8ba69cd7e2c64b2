"""The route table as it follows from the state and what is seen of the fleet. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from pydantic import TypeAdapter

from cluster.fleet.desired import by_hand, initial_replicas
from cluster.fleet.serving import Serving
from cluster.ports import AppState, AppStatus
from cluster.rollout.checks.labels import Loss
from cluster.rollout.record import Rollout
from cluster.routing.routes import WEIGHT_UNIT, LabelledOutput, Route, RouteTable, Target
from cluster.state import Model, State
from cluster.versions import VersionId

_ROUTES = TypeAdapter(dict[str, Route])


def build_route(state: State, model: Model, apps: Mapping[str, AppState], now_s: float, last: Route | None) -> Route | None:
    """The route of a model whose stable version serves; None elsewhere. Its targets are versions that may be scored with now.

    A version gets into the table when it is READY. The stable one, once in the table (`last` is what was published), stays while
    its replicas are away: nothing else could answer, and its callers are then told to retry, not that there is no such model.
    """
    if model.stable is None or model.serving is None:
        return None
    if not ((last is not None and model.stable in last.targets) or _seen(apps, model, model.stable)):
        return None
    return _route(state, model, model.stable, model.serving, apps, now_s)


def number_table(state: State, routes: dict[str, Route], published: RouteTable) -> tuple[State, RouteTable]:
    """The table of these routes, under a new number where they are others than the last, which is then saved with the state."""
    if published.number == state.table > 0 and routes == published.routes:
        return state, published  # to digest a thousand routes costs more than all else of a tick
    digest = digest_of(routes)
    if digest != state.table_digest:
        state = replace(state, table=state.table + 1, table_digest=digest)
    return state, RouteTable(state.table, routes)


def digest_of(routes: Mapping[str, Route]) -> str:
    """Equal for equal contents, in every process."""
    ordered = {name: routes[name] for name in sorted(routes)}
    return hashlib.sha256(_ROUTES.dump_json(ordered)).hexdigest()


def is_ready(app: AppState | None) -> bool:
    """Whether a version may begin to get traffic."""
    return app is not None and app.status is AppStatus.READY


def _route(state: State, model: Model, stable: int, serving: Serving, apps: Mapping[str, AppState], now_s: float) -> Route:
    numbers = {number for number, until_s in model.warm.items() if until_s > now_s and _seen(apps, model, number)}
    numbers.add(stable)
    rollout = state.active(model.name)
    plan = model.plan
    candidate, weight, shadow, stage, salt, trial, slow_ms, tolerance, labels = None, 0, 0, "", 0, False, None, None, None
    if rollout is not None and rollout.stable is not None:
        plan, stage, salt = rollout.plan, rollout.stage, rollout.salt
        slow_ms = plan.checks.slow.bound_ms if plan.checks.slow else None
        tolerance = plan.checks.disagreement.tolerance if plan.checks.disagreement else None
        if rollout.current is not None and _seen(apps, model, rollout.candidate):
            candidate = rollout.candidate
            numbers.add(candidate)
            weight, shadow = shares(rollout)
            trial = rollout.reached <= 1
            check = plan.checks.labels
            if check is not None and 0 < weight < WEIGHT_UNIT:
                labels = LabelledOutput(rollout.id, check.output, check.loss is Loss.WRONG)
    targets = {number: _target(state, model, number) for number in sorted(numbers)}
    return Route(
        model=model.name,
        stable=stable,
        serving=serving,
        targets=targets,
        candidate=candidate,
        weight=weight,
        shadow=shadow,
        stage=stage,
        salt=salt,
        fallback=plan.fallback if plan is not None else True,
        trial=trial,
        slow_ms=slow_ms,
        tolerance=tolerance,
        labels=labels,
        asleep=by_hand(model) and initial_replicas(model, serving) == 0,
    )


def shares(rollout: Rollout) -> tuple[int, int]:
    """Weight and shadow of the step under way, in basis points."""
    step = rollout.current
    return (0, 0) if step is None else (_basis_points(step.weight), _basis_points(step.shadow))


def _basis_points(percent: float) -> int:
    """Neither none nor all, unless that was asked for: such a step would wait for ever for what one of the two answers."""
    if percent in (0, 100):
        return round(percent * WEIGHT_UNIT / 100)
    return min(max(round(percent * WEIGHT_UNIT / 100), 1), WEIGHT_UNIT - 1)


def _seen(apps: Mapping[str, AppState], model: Model, number: int) -> bool:
    return is_ready(apps.get(VersionId(model.name, number).app))


def _target(state: State, model: Model, number: int) -> Target:
    version = state.versions[VersionId(model.name, number)]
    return Target(
        version=number,
        app=version.id.app,
        artifact_uri=version.artifact_uri,
        digest=version.digest,
        engine=version.engine,
        signature=version.signature,
    )
