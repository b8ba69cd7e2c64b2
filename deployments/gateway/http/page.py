"""What stands at `/`: what is loaded, and how to call it; a page for browsers, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from cluster.routing.routes import WEIGHT_UNIT, Route
from cluster.signature import Datatype, TensorSpec

MAX_SAMPLE_VALUES = 64

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f4f4f4;padding:1rem;overflow-x:auto}table{border-collapse:collapse}"
    "td,th{padding:.2rem 1rem .2rem 0;text-align:left}"
)


def render_page(routes: Sequence[Route], server_version: str, url: str) -> bytes:
    """The page as UTF-8 HTML. `url` is how its reader reaches this server."""
    nothing = "<p>No model is served yet: <code>headrace apply -f FILE</code>.</p>"
    models = "".join(_model(route, url) for route in routes) or nothing
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Headrace</title><style>{_STYLE}</style>"
        f"<h1>Headrace {escape(server_version)}</h1>"
        "<p>Speaks the Open Inference Protocol: <a href=/v2>/v2</a>, <a href=/v2/health/ready>/v2/health/ready</a>, "
        "<a href=/openapi.json>/openapi.json</a>. What runs, live: <a href=/console/>the console</a>.</p>"
        f"{models}</html>"
    ).encode()


def summary(routes: Sequence[Route], url: str) -> dict[str, Any]:
    """The same for programs. Its `status` is what KServe's V1 client asks here for: whether the server is alive."""
    models = [{"name": route.model, "versions": _versions(route), "call": _curl(route, url)} for route in routes]
    return {"status": "alive", "models": models}


def _model(route: Route, url: str) -> str:
    signature = route.targets[route.stable].signature
    rows = "".join(
        f"<tr><td>{kind}<td>{escape(spec.name)}<td>{spec.datatype}<td>{list(spec.shape)}"
        for kind, specs in (("input", signature.inputs), ("output", signature.outputs))
        for spec in specs
    )
    name = escape(route.model)
    return (
        f"<h2>{name}</h2><p>{escape(_versions(route))}. <a href=/v2/models/{name}>Metadata</a></p><table>{rows}</table>"
        f"<pre>{escape(_curl(route, url))}</pre>"
    )


def _versions(route: Route) -> str:
    stable = f"Version {route.stable} is stable"
    if route.candidate is None:
        return stable
    return f"{stable}; version {route.candidate} takes {100 * route.weight / WEIGHT_UNIT:g} % ({route.stage})"


def _curl(route: Route, url: str) -> str:
    body = json.dumps({"inputs": [_sample(spec) for spec in route.targets[route.stable].signature.inputs]})
    return f"curl -H 'Content-Type: application/json' {url}/v2/models/{route.model}/infer -d '{body}'"


def _sample(spec: TensorSpec) -> dict[str, object]:
    """One row of zeros; where that is long, an ellipsis stands for it."""
    shape = [1 if axis < 0 else axis for axis in spec.shape]
    count = 1
    for axis in shape:
        count *= axis
    zero: object = {Datatype.BYTES: "", Datatype.BOOL: False}.get(spec.datatype, 0)
    data: list[object] = [zero] * count if count <= MAX_SAMPLE_VALUES else [zero, f"... {count} values"]
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": shape, "data": data}
