"""`MODEL.explain`: what a request for explanations asks, and its answer as tensors, or as V1's rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import simdjson

from cluster.errors import BadInput, TooLarge
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.versions import EXPLAINS
from deployments.engines.datatypes import NUMPY, Array
from deployments.explain.asking import ExplainSection, read_options
from deployments.explain.form import ExplainMethod, ExplainOptions, Explanation
from deployments.gateway.protocol.request import InferRequest, Parameter, with_document
from deployments.gateway.protocol.response import InferResponse, OutputTensor
from deployments.gateway.protocol.v1 import V1Request, parse_v1, rows_of
from deployments.scoring.port import Explained

ROWS_MOST = 1024
# Where a parameter can only be a text, these hold their JSON.
NESTED = ("groups", "baseline")
OPTIONS = frozenset(field.alias or name for name, field in ExplainSection.model_fields.items()) | {"label"}
ATTRIBUTIONS = "attributions."
COUNTERFACTUAL = "counterfactual."
# Of each row, beside its attributions.
_COLUMNS: tuple[tuple[str, Datatype, Callable[[Explanation], Any]], ...] = (
    ("baseline", Datatype.FP64, lambda one: one.baseline),
    ("answer", Datatype.FP64, lambda one: one.answer),
    ("error", Datatype.FP64, lambda one: one.completeness_error),
    ("evaluations", Datatype.INT64, lambda one: one.evaluations),
    ("too_rough", Datatype.BOOL, lambda one: one.too_rough),
    ("label", Datatype.BYTES, lambda one: b"" if one.label is None else str(one.label).encode()),
)


def explained_model(name: str) -> str | None:
    """The model whose answers the virtual model of this name explains; None where it is none."""
    return name.removesuffix(EXPLAINS) if name.endswith(EXPLAINS) else None


def explain_outputs(signature: Signature) -> list[TensorSpec]:
    """The outputs of a version's `.explain`: float64 attributions in each input's shape, and a number a row of all else."""
    attributions = [
        TensorSpec(name=ATTRIBUTIONS + spec.name, datatype=Datatype.FP64, shape=spec.shape) for spec in signature.inputs
    ]
    return attributions + [TensorSpec(name=name, datatype=datatype, shape=(-1,)) for name, datatype, _ in _COLUMNS]


def explain_options(request: InferRequest, signature: Signature) -> ExplainOptions:
    """The options among a request's parameters. Raises BadInput, and TooLarge for too many rows."""
    rows = len(next(iter(request.inputs.values())))
    if rows > ROWS_MOST:
        what = f"it has {rows} rows, and {ROWS_MOST} are explained a request"
        raise TooLarge(what, where="request", remedy="send fewer rows, or explain them in a batch: `explain: {top: 5}`")
    given: dict[str, Any] = {name: value for name, value in request.parameters.items() if name in OPTIONS}
    for name in NESTED:
        if isinstance(text := given.get(name), str):
            try:
                given[name] = orjson.loads(text)
            except ValueError as error:
                raise BadInput(f"is no JSON: {error}", where=f"explain.{name}", remedy="send an object as JSON") from None
    return read_options(given, signature)


def explain_response(model: str, explained: Explained, request: InferRequest, signature: Signature) -> InferResponse:
    """The answer of `MODEL.explain`, with the outputs that were asked for. Raises BadInput for one that is not there."""
    known = _tensors(explained.explanations, signature)
    if request.outputs is None:
        outputs = [OutputTensor(*tensor, request.binary) for tensor in known.values()]
    else:
        outputs = []
        for wanted in request.outputs:
            if wanted.name not in known:
                what, names = "an explanation has no such output", ", ".join(known)
                raise BadInput(what, where=f"output {wanted.name!r}", remedy=f"its outputs: {names}")
            outputs.append(OutputTensor(*known[wanted.name], request.binary if wanted.binary is None else wanted.binary))
    parameters = _parameters(explained.explanations)
    return InferResponse(
        model + EXPLAINS, str(explained.version), tuple(outputs), request.id, parameters, len(explained.explanations)
    )


def _tensors(explanations: Sequence[Explanation], signature: Signature) -> dict[str, tuple[str, Datatype, Array]]:
    found: dict[str, tuple[str, Datatype, Array]] = {}
    for spec in signature.inputs:
        name = ATTRIBUTIONS + spec.name
        found[name] = name, Datatype.FP64, np.stack([one.attributions[spec.name] for one in explanations])
    for name, datatype, value in _COLUMNS:
        column: Array = np.empty(len(explanations), NUMPY[datatype])
        column[:] = [value(one) for one in explanations]
        found[name] = name, datatype, column
    if all(one.counterfactual is not None for one in explanations):
        for spec in signature.inputs:
            changed = [one.counterfactual[spec.name] for one in explanations if one.counterfactual is not None]
            found[COUNTERFACTUAL + spec.name] = COUNTERFACTUAL + spec.name, spec.datatype, np.stack(changed)
    return found


def _parameters(explanations: Sequence[Explanation]) -> dict[str, Parameter]:
    """What is the same for all rows, or told in words."""
    first = explanations[0]
    told: dict[str, Parameter] = {"method": first.method.value, "output": first.output, "scale": first.scale.value}
    if any(one.groups for one in explanations):
        told["groups"] = orjson.dumps([one.groups for one in explanations], option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if first.method is ExplainMethod.COUNTERFACTUAL:
        told["changed"] = orjson.dumps([one.changed for one in explanations]).decode()
    if why := next((one.why for one in explanations if one.why), ""):
        told["why"] = why
    return told


def parse_v1_explain(body: bytes | memoryview, signature: Signature) -> V1Request:
    """Reads `{"instances": [row, ...], "parameters": {...}}`, whose parameters may be objects here. Raises BadInput."""
    wanted = parse_v1(body, signature)
    parameters = with_document(body, _given)
    for name in NESTED:
        if isinstance(parameters.get(name), Mapping):
            parameters[name] = _as_text(parameters[name], name)
    return replace(wanted, parameters=parameters)


def _as_text(value: Mapping[str, Any], name: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # it reads more levels than it writes
        raise BadInput("is nested too deeply", where=f"explain.{name}", remedy="send an object of names") from None


def _given(document: simdjson.Object) -> dict[str, Any]:
    if "parameters" not in document:
        return {}
    given = document["parameters"]
    if not isinstance(given, simdjson.Object):
        raise BadInput("it must be an object", where="parameters", remedy="send the options of docs/explain.md by name")
    return dict(given.as_dict())


def encode_v1_explanations(model: str, explained: Explained, signature: Signature) -> bytes:
    """`{"explanations": [{"attributions": {INPUT: nested numbers}, "baseline": ...}, ...]}`, one a row."""
    explanations = [explanation_document(one, signature) for one in explained.explanations]
    document = {"model_name": model, "model_version": str(explained.version), "explanations": explanations}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def explanation_document(one: Explanation, signature: Signature) -> dict[str, Any]:
    """One explanation as plain data, but for numbers of numpy."""
    told: dict[str, Any] = {
        "attributions": {name: np.ascontiguousarray(values) for name, values in one.attributions.items()},
        "standard_errors": {name: np.ascontiguousarray(values) for name, values in one.errors.items()},
        "baseline": one.baseline,
        "answer": one.answer,
        "error": one.completeness_error,
        "method": one.method,
        "output": one.output,
        "label": one.label,
        "scale": one.scale,
        "evaluations": one.evaluations,
        "background_rows": one.background_rows,
        "too_rough": one.too_rough,
        "why": one.why,
    }
    if one.groups:
        told["groups"] = one.groups
        told["grouped"] = {name: np.ascontiguousarray(values) for name, values in one.grouped.items()}
    if one.counterfactual is not None:
        changed = {spec.name: one.counterfactual[spec.name] for spec in signature.inputs}
        kinds = {spec.name: spec.datatype for spec in signature.inputs}
        told["counterfactual"] = {name: rows_of(name, kinds[name], value[np.newaxis])[0] for name, value in changed.items()}
        told["changed"] = one.changed
    return told
