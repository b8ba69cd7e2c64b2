"""The page at `/`: what is loaded, and how to call it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from cluster.routes import WEIGHT_UNIT, Route
from cluster.signature import Datatype, TensorSpec

MAX_SAMPLE_VALUES = 64

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f4f4f4;padding:1rem;overflow-x:auto}table{border-collapse:collapse}"
    "td,th{padding:.2rem 1rem .2rem 0;text-align:left}"
)


def render_page(routes: Sequence[Route], server_version: str) -> bytes:
    """The page as UTF-8 HTML."""
    models = "".join(_model(route) for route in routes) or "<p>No model is served yet: <code>headrace apply -f FILE</code>.</p>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Headrace</title><style>{_STYLE}</style>"
        f"<h1>Headrace {escape(server_version)}</h1>"
        "<p>Speaks the Open Inference Protocol: <a href=/v2>/v2</a>, <a href=/v2/health/ready>/v2/health/ready</a>.</p>"
        f"{models}</html>"
    ).encode()


def _model(route: Route) -> str:
    signature = route.targets[route.stable].signature
    rows = "".join(
        f"<tr><td>{kind}<td>{escape(spec.name)}<td>{spec.datatype}<td>{list(spec.shape)}"
        for kind, specs in (("input", signature.inputs), ("output", signature.outputs))
        for spec in specs
    )
    versions = f"Version {route.stable} is stable"
    if route.candidate is not None:
        versions += f"; version {route.candidate} takes {100 * route.weight / WEIGHT_UNIT:g} % ({escape(route.stage)})"
    name = escape(route.model)
    return (
        f"<h2>{name}</h2><p>{versions}. <a href=/v2/models/{name}>Metadata</a></p><table>{rows}</table>"
        f"<pre>{escape(_curl(route.model, signature.inputs))}</pre>"
    )


def _curl(model: str, inputs: Sequence[TensorSpec]) -> str:
    body = json.dumps({"inputs": [_sample(spec) for spec in inputs]})
    return f"curl -H 'Content-Type: application/json' http://127.0.0.1:8000/v2/models/{model}/infer -d '{body}'"


def _sample(spec: TensorSpec) -> dict[str, object]:
    """One row of zeros; where that is long, an ellipsis stands for it."""
    shape = [1 if axis < 0 else axis for axis in spec.shape]
    count = 1
    for axis in shape:
        count *= axis
    zero: object = {Datatype.BYTES: "", Datatype.BOOL: False}.get(spec.datatype, 0)
    data: list[object] = [zero] * count if count <= MAX_SAMPLE_VALUES else [zero, f"... {count} values"]
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": shape, "data": data}
