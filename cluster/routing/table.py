"""The route table as it follows from the state and what is seen of the fleet. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from pydantic import TypeAdapter

from cluster.access.policy import AccessPolicy
from cluster.fleet.desired import by_hand, initial_replicas
from cluster.fleet.serving import Serving, TransportKind
from cluster.ports import AppState, AppStatus
from cluster.rollout.checks.labels import Loss
from cluster.rollout.record import Rollout
from cluster.routing.routes import EMPTY, WEIGHT_UNIT, LabelledOutput, Route, RouteTable, Standing, Target
from cluster.state import Model, State
from cluster.versions import VersionId

_ROUTE, _ACCESS = TypeAdapter(Route), TypeAdapter(AccessPolicy)


def build_route(state: State, model: Model, apps: Mapping[str, AppState], now_s: float, last: Route | None) -> Route | None:
    """The route of a model whose stable version serves; None elsewhere. Its targets are versions that may be scored with now.

    A version gets into the table when it is READY. The stable one, once in the table (`last` is what was published), stays while
    its replicas are away: nothing else could answer, and its callers are then told to retry, not that there is no such model.
    What is as it was is the same object.
    """
    if model.stable is None or model.serving is None or model.unrouted:
        return None
    if not ((last is not None and model.stable in last.targets) or _seen(apps, model, model.stable)):
        return None
    route = _route(state, model, model.stable, model.serving, apps, now_s)
    return last if route == last else route


def standing_of(state: State, model: Model, route: Route | None, apps: Mapping[str, AppState]) -> Standing:
    """How a model stands whose route this is."""
    if route is None:
        wanted = model.serving is not None and not model.unrouted and state.versions.newest(model.name) > 0
        return Standing.WAITING if wanted else Standing.EMPTY
    if route.asleep:
        return Standing.ASLEEP
    if route.serving.transport is TransportKind.EMBEDDED:
        return Standing.READY  # its callers hold it
    app = apps.get(route.targets[route.stable].app)
    return Standing.READY if app is not None and (is_ready(app) or app.replicas > 0) else Standing.AWAY


def number_table(
    state: State, routes: dict[str, Route], models: dict[str, Standing], published: RouteTable, fence: int
) -> tuple[State, RouteTable]:
    """The table of these, under a new number where they are others than the last, which is then saved with the state."""
    same = published.number == state.table > 0 and published.fence == fence
    access = AccessPolicy(state.access, state.keys)
    if same and routes == published.routes and models == published.models and access == published.access:
        return state, published
    table = RouteTable(state.table, routes, models, fence, access)
    # To digest a thousand routes costs more than all else of a tick, and where many rollouts are under way each brings a change.
    digest = digest_after(state.table_digest, published, table) if same else digest_of(table)
    if digest == state.table_digest:
        return state, table
    return replace(state, table=state.table + 1, table_digest=digest), replace(table, number=state.table + 1)


def digest_of(table: RouteTable) -> str:
    """Equal for equal contents, in every process: the digests of all entries, each of which names itself, added without carry."""
    return digest_after(_of_access(EMPTY), EMPTY, table)


def digest_after(digest: str, before: RouteTable, after: RouteTable) -> str:
    """The digest of a table, from that of another: only what differs is digested."""
    found = int(digest, 16)
    for kind, old, new in (("route", before.routes, after.routes), ("model", before.models, after.models)):
        for name in old.keys() | new.keys():
            was, now = old.get(name), new.get(name)
            if was is not now and was != now:
                found ^= _of_entry(kind, name, was) ^ _of_entry(kind, name, now)
    if before.access is not after.access and before.access != after.access:
        found ^= int(_of_access(before), 16) ^ int(_of_access(after), 16)
    return f"{found:064x}"


def _of_entry(kind: str, name: str, entry: Route | Standing | None) -> int:
    """0 for none."""
    if entry is None:
        return 0
    content = _ROUTE.dump_json(entry) if isinstance(entry, Route) else entry.value.encode()
    return int.from_bytes(hashlib.sha256(b"%s %s %s" % (kind.encode(), name.encode(), content)).digest(), "big")


def _of_access(table: RouteTable) -> str:
    access = replace(table.access, keys=dict(sorted(table.access.keys.items())))
    return hashlib.sha256(b"access " + _ACCESS.dump_json(access)).hexdigest()


def is_ready(app: AppState | None) -> bool:
    """Whether a version may begin to get traffic."""
    return app is not None and app.status is AppStatus.READY


def _route(state: State, model: Model, stable: int, serving: Serving, apps: Mapping[str, AppState], now_s: float) -> Route:
    numbers = {number for number, until_s in model.warm.items() if until_s > now_s and _seen(apps, model, number)}
    numbers.add(stable)
    rollout = state.active(model.name)
    plan = model.plan
    candidate, weight, shadow, stage, salt, trial, slow_ms, tolerance = None, 0, 0, "", 0, False, None, None
    live = model.labels
    scores = _scores(state, model.name, stable) if live is not None and live.loss is Loss.WRONG else ""
    labels = LabelledOutput(0, live.output, live.loss is Loss.WRONG, scores) if live is not None else None
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
                labels = LabelledOutput(rollout.id, check.output, check.loss is Loss.WRONG, scores)
    targets = {number: _target(state, model, number) for number in sorted(numbers)}
    return Route(
        model=model.name,
        stable=stable,
        serving=_with_replicas(model, serving),
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
        payloads=model.payloads,
        asleep=by_hand(model) and initial_replicas(model, serving) == 0,
    )


def _with_replicas(model: Model, serving: Serving) -> Serving:
    """With as many replicas as a person wants now, whatever the document began with: callers have so many calls under way as
    these bear."""
    if not by_hand(model) or (replicas := initial_replicas(model, serving)) == serving.scaling.replicas:
        return serving
    return serving.model_copy(update={"scaling": serving.scaling.model_copy(update={"replicas": replicas})})


def _scores(state: State, model: str, stable: int) -> str:
    """The output by which it is estimated how often the version is right; empty where its build does not tell how to."""
    quality = state.versions[VersionId(model, stable)].quality
    return quality.confidence.output if quality is not None and quality.confidence is not None else ""


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
