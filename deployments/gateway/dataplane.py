"""What the gateway does, whatever brought the request: score, describe, say what is ready. Errors are those of cluster.errors."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cluster.access.callers import SEE_YOURS, Caller, Role
from cluster.errors import Forbidden, HeadraceError, NoCapacity, NotFound, Unauthenticated
from cluster.routing.routes import Route, RouteTable, Standing
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.versions import EXPLAINS
from deployments.drift.row_outliers import RowOutliers
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainOptions
from deployments.gateway.access.quotas import QuotaBook
from deployments.gateway.batcher import Batcher
from deployments.gateway.door.other_gateways import OtherGateways
from deployments.gateway.lanes import BatchLimits
from deployments.gateway.protocol.asked import (
    OUTLIER,
    asks_for_outliers,
    check_inputs,
    parse_version,
    routing_key,
    timeout_s_of,
    wanted_outputs,
)
from deployments.gateway.protocol.explanations import explain_options, explain_outputs, explain_response, explained_model
from deployments.gateway.protocol.request import InferRequest
from deployments.gateway.protocol.response import InferResponse, OutputTensor
from deployments.gateway.request_meter import RequestMeter
from deployments.gateway.statistics import Statistics, added
from deployments.gateway.traced import tell
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.traces.tracer import Tracer
from deployments.scoring.port import Explained, Scored, Scorer

SERVER_NAME = "headrace"
OUR_FAULT = "a fault of the gateway, not of the request (the gateway's log has it)"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")


@dataclass(frozen=True, slots=True)
class InferCall:
    """Who is asked and how: a pinned version or the split, the key that steers it, and the time allowed (None: the model's)."""

    model: str
    version: str | None = None
    routing_key: bytes | None = None
    timeout_s: float | None = None


class TableScorer(Scorer, Protocol):
    """A scorer that tells which routes it follows; it keeps them while the controller is away."""

    @property
    def table(self) -> RouteTable:
        """The newest table it has seen."""

    outliers: RowOutliers
    """What tells which rows are outliers."""

    def route(self, model: str) -> Route:
        """The model's route. Raises NotFound."""

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
        """Why n rows are answered as they are, by `version`, or by the one that answers a caller of this `key`; stable where
        neither is given. Raises what `score` does, EngineFailure, and BadInput for options that don't fit the version."""


class DataPlane:
    """Transport-free. Used from one event loop. `MODEL.explain` is a model too, which answers why MODEL answers so.

    Whatever is asked of one model is answered to callers that may see it; to others as if it were not there. Raises
    Unauthenticated where nobody said who he is and somebody might see it.
    """

    def __init__(
        self,
        scorer: TableScorer,
        limits: BatchLimits,
        others: OtherGateways | None = None,
        meters: Meters | None = None,
        payloads: PayloadLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`others` are asked for their statistics; None: there are none. `meters`, `payloads` and `tracer` are the process's."""
        self.tracer = tracer
        self._payloads = payloads
        self._scorer = scorer
        self._others = others
        self._statistics = Statistics()
        self.requests = RequestMeter(meters or Meters(), lambda model: model in scorer.table.models)
        self._batcher = Batcher(scorer, limits, self._statistics, self.requests)
        self._quotas = QuotaBook()

    async def infer(self, call: InferCall, request: InferRequest, caller: Caller) -> InferResponse:
        """Scores a request by one version. Raises Unauthenticated, Forbidden, BadInput, NotFound, OverQuota, NoCapacity or
        EngineFailure."""
        if call.model.endswith(EXPLAINS):
            about = replace(call, model=call.model.removesuffix(EXPLAINS))
            explained, signature = await self.explain(about, request, caller)
            return explain_response(about.model, explained, request, signature)
        self._may_score(caller, call.model)
        if self.tracer is not None:
            tell(model=call.model, request_id=request.id)
        version = parse_version(call.version)
        route = self._scorer.table.routes.get(call.model) or await self._route(call.model)
        signature = self._scorer.signature(call.model, version)
        check_inputs(request, signature)
        wanted, outliers = wanted_outputs(request, signature), asks_for_outliers(request, signature)
        if caller.quotas:
            with self._quotas.taken(caller, call.model, len(request.inputs[signature.inputs[0].name])):
                scored = await self._score(call, request, route, version, caller)
        else:
            scored = await self._score(call, request, route, version, caller)
        version_name, parameters = _versions(scored)
        if scored.label_keys is not None:
            parameters["label_keys"] = _label_keys(scored.label_keys)
        if route.payloads is not None and self._payloads is not None:
            keys = parameters["label_keys"].split(",") if scored.label_keys is not None else ()
            inputs, given = request.inputs, (scored.outputs, scored.versions)
            self._payloads.answered(route.payloads, call.model, inputs, *given, request_id=request.id, label_keys=keys)
        if self.tracer is not None:
            tell(version=version_name, rows=len(scored.versions))
        outputs = [OutputTensor(spec.name, spec.datatype, scored.outputs[spec.name], binary) for spec, binary in wanted]
        if outliers:
            unlike = await self._scorer.outliers.of(route, request.inputs, scored.versions)
            outputs.append(OutputTensor(OUTLIER, Datatype.FP64, unlike, request.binary))
        return InferResponse(call.model, version_name, tuple(outputs), request.id, parameters, len(scored.versions))

    async def explain(self, call: InferCall, request: InferRequest, caller: Caller) -> tuple[Explained, Signature]:
        """Explains a request's rows by one version, which has that signature. It is no traffic: nothing is gathered with others,
        kept or counted as scored. Raises as `infer` does."""
        self._may_score(caller, call.model)
        version = parse_version(call.version)
        route = self._scorer.table.routes.get(call.model) or await self._route(call.model)
        signature = self._scorer.signature(call.model, version)
        check_inputs(request, signature)
        options = explain_options(request, signature)
        key, timeout_s = (
            call.routing_key or routing_key(request),
            call.timeout_s or timeout_s_of(request) or route.serving.timeout_s,
        )
        with self._quotas.taken(caller, call.model, len(request.inputs[signature.inputs[0].name])):
            explained = await self._scorer.explain(call.model, request.inputs, options, key, version=version, timeout_s=timeout_s)
        return explained, self._scorer.signature(call.model, explained.version)

    async def _score(self, call: InferCall, request: InferRequest, route: Route, version: int | None, caller: Caller) -> Scored:
        begin_s = time.monotonic()
        try:
            scored = await self._batcher.score(
                route,
                version,
                request.inputs,
                # One key a request, drawn where none is given: so one version answers all its rows. Not by the kernel: a
                # call to it lets go of the interpreter's lock, which engines' threads wait for.
                call.routing_key or routing_key(request) or random.randbytes(16),  # noqa: S311 (no secret)
                timeout_s=call.timeout_s or timeout_s_of(request) or route.serving.timeout_s,
                caller="" if caller.anonymous else caller.name,
            )
            _raise_first(call.model, scored)
        except HeadraceError as error:
            self._statistics.failed(call.model, version or route.stable, time.monotonic() - begin_s)
            if route.payloads is not None and self._payloads is not None:
                asked = version or route.stable
                self._payloads.failed(route.payloads, call.model, request.inputs, asked, error, request_id=request.id)
            raise
        return scored

    async def signature(self, model: str, version: str | None = None, *, caller: Caller) -> Signature:
        """The signature of the stable version or of the one named, of a model or of what explains it. Raises NotFound or
        NoCapacity."""
        model = explained_model(model) or model
        self.check_sees(caller, model)
        await self._route(model)
        return self._scorer.signature(model, parse_version(version))

    def model_metadata(self, model: str, version: str | None = None, *, caller: Caller) -> dict[str, Any]:
        """The protocol's model metadata. Raises NotFound."""
        about = explained_model(model)
        self.check_sees(caller, about or model)
        route = self._scorer.route(about or model)
        number = _served(route, parse_version(version))
        signature = route.targets[number].signature
        outputs = signature.outputs if about is None else explain_outputs(signature)
        return {
            "name": model,
            "versions": [str(served) for served in sorted(route.targets)],
            "platform": f"{SERVER_NAME}_{route.targets[number].engine}",
            "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
            "outputs": [_tensor_metadata(spec) for spec in outputs],
        }

    async def model_ready(self, model: str, version: str | None = None, *, caller: Caller) -> bool:
        """Whether it can be scored now. Raises NotFound where there is no such model, or the version is not served."""
        model = explained_model(model) or model
        self.check_sees(caller, model)
        wanted = parse_version(version)
        try:
            route = await self._route(model)
        except NoCapacity:
            return False
        _served(route, wanted)
        return self._scorer.table.models.get(model) is Standing.READY

    async def _route(self, model: str) -> Route:
        """The model's route. Raises NotFound where there is no such model, NoCapacity where no version of it is ready yet."""
        try:
            return self._scorer.route(model)
        except NotFound as error:
            if self._scorer.table.models.get(model, Standing.EMPTY) is Standing.EMPTY:
                raise _unknown(model, error.remedy) from None
        raise NoCapacity("no version of it is ready", where=f"model {model}", remedy="retry, or see `headrace status`")

    async def statistics(
        self, model: str = "", version: str | None = None, *, alone: bool = False, caller: Caller
    ) -> dict[str, Any]:
        """The protocol's statistics: of one version, of all that the model serves, or of everything that the caller may see; of
        all gateways behind this one's door, or of this `alone`. What a gateway that has ended has counted is gone. Raises
        NotFound."""
        if not model:
            pairs = [(route.model, number) for route in self.models(caller) for number in sorted(route.targets)]
        else:
            self.check_sees(caller, model)
            route, wanted = self._scorer.route(model), parse_version(version)
            pairs = [(model, number) for number in (sorted(route.targets) if wanted is None else [_served(route, wanted)])]
        own = [self._statistics.describe(*pair) for pair in pairs]
        if alone or self._others is None:
            return {"model_stats": own}
        return {"model_stats": added(own, await self._others.statistics(model, version))}

    def models(self, caller: Caller) -> list[Route]:
        """What is served and the caller may see, by name."""
        return [route for name, route in sorted(self._scorer.table.routes.items()) if caller.sees(name)]

    def _may_score(self, caller: Caller, model: str) -> None:
        if caller.may(Role.SCORE, model):
            return
        self.check_sees(caller, model)
        raise (
            _nobody_said()
            if caller.anonymous
            else Forbidden(
                f"{caller.name} may see it, not score with it", where=f"model {model}", remedy="ask an admin for the role score"
            )
        )

    def check_sees(self, caller: Caller, model: str) -> None:
        """Raises NotFound where he may not know of the model, in the same words as where there is none."""
        if caller.sees_all:
            return
        table = self._scorer.table
        if caller.sees(model) and (model in table.routes or model in table.models):
            return
        raise _nobody_said() if caller.anonymous else _unknown(model, SEE_YOURS)

    async def ready(self) -> bool:
        """Whether every model that has a version is served, or asleep by a person's will, as the newest table says."""
        table = self._scorer.table
        return table.number > 0 and Standing.WAITING not in table.models.values()


def _unknown(model: str, remedy: str) -> NotFound:
    # Triton's clients look for these words.
    return NotFound(f"Request for unknown model: {model[:80]!r} is not found", where="model", remedy=remedy)


def _nobody_said() -> Unauthenticated:
    return Unauthenticated(
        "this needs a key or token", where="Authorization", remedy="send `Authorization: Bearer KEY`; an admin makes keys"
    )


def _raise_first(model: str, scored: Scored) -> None:
    if scored.errors:
        row, error = min(scored.errors.items())
        more = f" (and {len(scored.errors) - 1} more rows)" if len(scored.errors) > 1 else ""
        kind: type[HeadraceError] = type(error)
        raise kind(f"{error.what}{more}", where=f"model {model}, row {row}", remedy=error.remedy)


def _versions(scored: Scored) -> tuple[str, dict[str, Any]]:
    """The version that answered. Where a fallback made it several: the one of most rows, with a list row by row."""
    first = int(scored.versions[0])
    if len(scored.versions) == 1 or (scored.versions == first).all():
        return str(first), {}
    numbers, counts = np.unique(scored.versions, return_counts=True)
    return str(numbers[counts.argmax()]), {"row_versions": ",".join(map(str, scored.versions.tolist()))}


def _label_keys(keys: Sequence[str]) -> str:
    """One for each row, by commas; nothing for a row that must not be judged."""
    prediction = os.urandom(8).hex()
    return ",".join(f"{key}/{prediction}.{row}" if key else "" for row, key in enumerate(keys))


def _served(route: Route, version: int | None) -> int:
    number = route.stable if version is None else version
    if number not in route.targets:
        served = ", ".join(map(str, sorted(route.targets)))
        raise NotFound(f"version {number} of {route.model} is not served", where="version", remedy=f"served now: {served}")
    return number


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}
