"""A scorer and a control plane in memory, for tests of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cluster.access.callers import CLUSTER, Caller
from cluster.commands.models import AppView, ModelView
from cluster.commands.versions import VersionView
from cluster.commands.watch.metrics import METRICS, MetricsView
from cluster.control_plane import Told
from cluster.errors import HeadraceError, NotFound, Unreachable
from cluster.fleet.serving import Serving
from cluster.routing.routes import Route, RouteTable, Stamp, Standing, Target
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.watch.catalogue import GATEWAYS
from deployments.drift.profile_book import ProfileBook
from deployments.drift.row_outliers import RowOutliers
from deployments.engines.datatypes import Array
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainOptions
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.console.console import Console
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.http.callers import Callers
from deployments.gateway.http.infer import HttpInfer
from deployments.gateway.lanes import BatchLimits
from deployments.gateway.large import LargeWork
from deployments.gateway.repository import Repository
from deployments.scoring.port import Explained, Scored
from deployments.scoring.senders import Senders

PAIR = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),),
    outputs=(
        TensorSpec(name="double", datatype=Datatype.FP32, shape=(-1, 2)),
        TensorSpec(name="sum", datatype=Datatype.FP64, shape=(-1,)),
    ),
)


def target(version: int, signature: Signature = PAIR) -> Target:
    """A target that nothing loads."""
    return Target(version, f"pair--v{version}", "memory:", "0" * 64, "onnx", signature)


def table(signature: Signature = PAIR, serving: Serving | None = None, number: int = 1) -> RouteTable:
    """Model `pair` with stable version 3 and warm version 2."""
    targets = {2: target(2, signature), 3: target(3, signature)}
    route = Route(model="pair", stable=3, serving=serving or Serving(), targets=targets)
    return RouteTable(number, {"pair": route}, {"pair": Standing.READY})


def double(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What version 3 of `pair` answers."""
    x = np.asarray(tensors["x"], np.float32)
    return {"double": x * 2, "sum": x.sum(axis=1).astype(np.float64)}


# What is scored together must not depend on how fast the machine is.
PATIENT = BatchLimits(gather_s=0.0, patience_s=3600.0, candidate_apart_s=0.0, candidate_crowd_apart_s=0.0, crowd_apart_s=0.0)


class FakeScorer:
    """Implements `TableScorer` by a function. `calls` holds the rows of each call; while `gate` is unset calls wait.

    `ended` counts the calls that were cancelled. `there` is how many replicas each version has.
    """

    def __init__(self, routes: RouteTable, answer: Callable[[Mapping[str, Array]], dict[str, Array]] = double) -> None:
        self.table = routes
        self.answer = answer
        self.calls: list[int] = []
        self.ended = 0
        self.there = 1
        self.explained: list[tuple[int | None, bytes | None, float | None]] = []
        self.keys: list[bytes | None] = []
        self.senders: list[Senders | None] = []
        self.timeouts_s: list[float | None] = []
        self.row_error: Callable[[Array], HeadraceError | None] = lambda _: None
        self.failure: HeadraceError | None = None
        self.book = ProfileBook(lambda *_: None)
        self.gate = asyncio.Event()
        self.gate.set()

    async def score(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
        senders: Senders | None = None,
    ) -> Scored:
        self.signature(model, version)
        first = next(iter(tensors.values()))
        self.calls.append(len(first))
        self.timeouts_s.append(timeout_s)
        self.keys.extend(keys or ())
        self.senders.append(senders)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended += 1
            raise
        if self.failure is not None:
            raise self.failure
        errors = {i: error for i, row in enumerate(first) if (error := self.row_error(row)) is not None}
        number = version or self.route(model).stable
        return Scored(self.answer(tensors), np.full(len(first), number, np.int32), errors)

    def replicas(self, model: str, version: int) -> int:
        assert version in self.route(model).targets
        return self.there

    async def explain(
        self,
        model: str,
        tensors: Mapping[str, Array],
        options: ExplainOptions,
        key: bytes | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Explained:
        """Against rows of zeros and of ones."""
        signature = self.signature(model, version)
        self.explained.append((version, key, timeout_s))
        if self.failure is not None:
            raise self.failure
        zeros = {name: np.zeros_like(tensor[:1]) for name, tensor in tensors.items()}
        background = Background({name: np.concatenate([zero, zero + 1]) for name, zero in zeros.items()})
        found = explain_rows(self.answer, tensors, signature, background, options)
        return Explained(version or self.route(model).stable, found)

    @property
    def outliers(self) -> RowOutliers:
        return RowOutliers(self.book)

    def route(self, model: str) -> Route:
        if model not in self.table.routes:
            raise NotFound("not served", where=model)
        return self.table.routes[model]

    def signature(self, model: str, version: int | None = None) -> Signature:
        route = self.route(model)
        if (version or route.stable) not in route.targets:
            raise NotFound("not served", where=model)
        return route.targets[version or route.stable].signature


class FakeControl:
    """Implements `ControlPlane`. `called` holds the commands; `away` makes every call raise Unreachable."""

    def __init__(self, routes: RouteTable) -> None:
        self.table = routes
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.failure: HeadraceError | None = None
        self.away = False
        self.models: list[dict[str, Any]] = [{"name": name, "versions": [1]} for name in routes.routes]

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        if self.away:
            raise Unreachable("away", where="controller")
        if self.table.stamp <= after:
            await asyncio.sleep(timeout_s)
        return self.table

    async def push(self, told: Told) -> None:
        raise NotImplementedError

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        if self.away:
            raise Unreachable("away", where="controller")
        if self.failure is not None:
            raise self.failure
        self.called.append((command, payload))
        if command == METRICS.name:
            return MetricsView(values=((GATEWAYS.name, (), 1.0),), histograms=()).model_dump(mode="json")
        return {"models": self.models} if command == "status" else {"done": command}


def model_view() -> dict[str, Any]:
    """Model `pair` as the controller tells of it: 1 is idle, 2 warm, 3 stable, 4 a candidate that starts."""

    def version(number: int, role: str) -> VersionView:
        return VersionView(
            model="pair",
            version=number,
            artifact_uri="memory:",
            digest="0" * 64,
            engine="onnx",
            signature=PAIR,
            created_s=0,
            role=role,
        )

    versions = (version(1, "idle"), version(2, "warm"), version(3, "stable"), version(4, "candidate"))
    app = AppView(app="pair--v4", status="starting", replicas=0, target_replicas=1, message="no GPU is free")
    view = ModelView(
        name="pair", stable=3, candidate=4, serving=Serving(), plan=None, versions=versions, apps=(app,), rollout=None
    )
    return view.model_dump(mode="json")


def gateway(
    scorer: FakeScorer, control: FakeControl, limits: BatchLimits | None = None, max_body_bytes: int = 1 << 20
) -> GatewayApp:
    """An application over the fakes."""
    dataplane = DataPlane(scorer, limits or PATIENT)
    admission, callers = Admission(1000, 1 << 30), Callers.to("gateway")
    guard, repository = Guard(scorer, visitors=True), Repository(scorer, control)
    large = LargeWork()
    console = Console(control, guard, callers, admission, "0.0.0", HttpInfer(dataplane, large, max_body_bytes))
    return GatewayApp(dataplane, repository, control, guard, "0.0.0", max_body_bytes, admission, large, callers, console)
