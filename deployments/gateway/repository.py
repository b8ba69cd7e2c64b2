"""What the protocol calls the model repository: the versions that the controller knows, and which of them are served."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.access.callers import SEE_YOURS, Caller
from cluster.commands.models import ModelView
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, Conflict, NotFound
from cluster.routing.routes import Route
from cluster.signature import Datatype, TensorSpec
from deployments.gateway.dataplane import SERVER_NAME, TableScorer
from deployments.gateway.protocol.asked import parse_version

ROLES_SERVED = frozenset({"stable", "candidate", "warm"})


class ModelState(StrEnum):
    """A version's state, in the words that the protocol's clients know."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of one model; `reason` says why it is not READY."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


class Repository:
    """Answers from the controller's status and the newest route table, of models that the caller may see.

    Used from one event loop.
    """

    def __init__(self, scorer: TableScorer, control: ControlPlane) -> None:
        self._scorer = scorer
        self._control = control

    async def index(self, caller: Caller, *, ready_only: bool = False) -> list[IndexEntry]:
        """All versions, by model and number. Raises Unreachable while the controller is away."""
        entries = [entry for model in await self._models(caller) for entry in self._entries(model)]
        return [entry for entry in entries if entry.state is ModelState.READY or not ready_only]

    async def load(self, caller: Caller, model: str, parameters: Collection[str] = ()) -> None:
        """Nothing is to be done for a model that is served. Raises NotFound, and Conflict where no version is READY.

        A rollout alone decides which version serves, so no caller can load one beside it. `parameters` (a config, files) are
        BadInput.
        """
        if parameters:
            raise BadInput("a load takes no parameters", where=f"parameter {min(parameters)!r}", remedy="use headrace build")
        entries = self._entries(await self._model(caller, model, "load"))
        if not any(entry.state is ModelState.READY for entry in entries):
            why = next((entry.reason for entry in reversed(entries)), "it has no version")
            remedy = f"headrace scale {model} 1, or see headrace rollout status {model}"
            raise Conflict(
                f"failed to load {model!r}: no version can be served now: {why}", where=f"model {model}", remedy=remedy
            )

    async def unload(self, caller: Caller, model: str) -> None:
        """Nothing is to be done for a model that is not served. Raises NotFound, and Conflict for one that is."""
        await self._model(caller, model, "unload")
        route = self._scorer.table.routes.get(model)
        if route is not None and not route.asleep:
            raise Conflict("it is served; a caller can't unload it", where=f"model {model}", remedy=f"headrace scale {model} 0")

    def config(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Triton's ModelConfig in its JSON form, as far as it has a meaning here. Raises NotFound."""
        route = self._scorer.route(model)
        target = route.targets.get(parse_version(version) or route.stable)
        if target is None:
            raise NotFound(f"version {version} is not served", where=f"model {model}", remedy=f"served now: {_numbers(route)}")
        return {
            "name": model,
            "platform": f"{SERVER_NAME}_{target.engine}",
            "backend": target.engine,
            "version_policy": {"specific": {"versions": sorted(route.targets)}},
            "max_batch_size": route.serving.max_batch_rows,
            "input": [_tensor(spec) for spec in target.signature.inputs],
            "output": [_tensor(spec) for spec in target.signature.outputs],
        }

    async def _models(self, caller: Caller) -> list[ModelView]:
        status = await self._control.call("status", {})  # who may score sees no more of it than is told here
        return [ModelView.model_validate(model) for model in status["models"] if caller.sees(model["name"])]

    async def _model(self, caller: Caller, name: str, call: str) -> ModelView:
        for model in await self._models(caller):
            if model.name == name:
                return model
        # Triton's clients look for these words, and for those of `load`.
        raise NotFound(f"failed to {call} {name[:80]!r}: there is no such model", where="repository", remedy=SEE_YOURS)

    def _entries(self, model: ModelView) -> list[IndexEntry]:
        route = self._scorer.table.routes.get(model.name)
        served = route.targets if route is not None else {}
        entries = []
        for version in sorted(model.versions, key=lambda version: version.version):
            number = str(version.version)
            if version.version in served and route is not None and route.asleep:
                entries.append(IndexEntry(model.name, number, ModelState.UNAVAILABLE, "it is scaled to no replicas"))
            elif version.version in served:
                entries.append(IndexEntry(model.name, number, ModelState.READY))
            elif version.role in ROLES_SERVED:
                entries.append(IndexEntry(model.name, number, ModelState.LOADING, _why(model, version.version)))
            else:
                entries.append(IndexEntry(model.name, number, ModelState.UNAVAILABLE, f"it is {version.role}"))
        return entries


def _why(model: ModelView, version: int) -> str:
    app = next((app for app in model.apps if app.app == f"{model.name}--v{version}"), None)
    if app is None:
        return "its replicas are not started yet"
    return f"{app.replicas} of {app.target_replicas} replicas run" + (f": {app.message}" if app.message else "")


def _numbers(route: Route) -> str:
    return ", ".join(map(str, sorted(route.targets)))


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """Without the batch axis, as `max_batch_size` above 0 implies."""
    name = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(spec.shape[1:])}
