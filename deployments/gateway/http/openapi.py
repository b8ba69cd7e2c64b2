"""The OpenAPI document of what the gateway serves over HTTP, the page aside."""

from __future__ import annotations

from typing import Any

from cluster.signature import Datatype
from deployments.gateway.http.control_openapi import control_openapi

_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 32}
_METADATA_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_DATATYPE = {"enum": [datatype.value for datatype in Datatype]}
_NAME = {"type": "string", "minLength": 1}


# A key or token; on loopback, without an Access document, only what changes something needs one.
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, or a token of an issuer"},
    "basic": {"type": "http", "scheme": "basic", "description": "an API key: its id, and what follows it"},
    "certificate": {"type": "mutualTLS"},
}


def openapi_document(server_version: str) -> dict[str, Any]:
    """OpenAPI 3.1, made anew at each call."""
    commands, shapes = control_openapi()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace: Open Inference Protocol v2", "version": server_version},
        "paths": _paths() | commands,
        "components": {"schemas": _schemas() | shapes, "securitySchemes": _SECURITY},
        "security": [{}, *({scheme: []} for scheme in _SECURITY)],
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("What this server is", "ServerMetadata")},
        "/v2/health/live": {"get": _operation("Whether it runs", "Live")},
        "/v2/health/ready": {"get": _operation("Whether every model that should serve does", "Ready", {"503": _json("Ready")})},
        "/metrics": {"get": _metrics()},
        "/v1/models": {"get": _operation("What is served", "V1Models")},
        "/v1/models/{model}": {
            "get": _operation("Whether the model is served", "ModelReady", {"503": _json("ModelReady")}, model=True)
        },
        "/v1/models/{model}:predict": {"post": _scoring("Scores rows", "V1Request", "V1Response")},
        "/v1/models/{model}:explain": {"post": _scoring("Explains rows", "V1Request", "V1Explanations")},
        "/v1/models/{model}/versions/{version}:explain": {
            "post": _scoring("Explains rows", "V1Request", "V1Explanations", version=True)
        },
        "/v2/models/stats": {"get": _operation("What this gateway has scored since it started", "Statistics")},
        "/v2/repository/index": {
            "post": _operation("All versions that the controller knows", "Index", {"403": _json("Error")}, body="IndexRequest")
        },
    }
    for call, what in (("load", "Makes sure that a model is served"), ("unload", "Makes sure that a model is not served")):
        operation = _operation(
            what, "Nothing", {"403": _json("Error"), "409": _json("Error")}, body="RepositoryRequest", model=True
        )
        paths[f"/v2/repository/models/{{model}}/{call}"] = {"post": operation}
    for stem in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        pinned = stem.endswith("{version}")
        paths[stem] = {"get": _operation("The model's inputs and outputs", "ModelMetadata", model=True, version=pinned)}
        paths[f"{stem}/ready"] = {"get": _whether("it can be scored", version=pinned)}
        paths[f"{stem}/config"] = {"get": _operation("Triton's ModelConfig", "ModelConfig", model=True, version=pinned)}
        paths[f"{stem}/stats"] = {"get": _operation("What it has scored", "Statistics", model=True, version=pinned)}
        paths[f"{stem}/infer"] = {
            "post": _scoring("Scores tensors", "InferRequest", "InferResponse", version=pinned, binary=True)
        }
        paths[f"{stem}/explain"] = {
            "post": _scoring("Explains rows of tensors", "InferRequest", "InferResponse", version=pinned, binary=True)
        }
    return paths


def _operation(
    summary: str,
    answer: str,
    more: dict[str, Any] | None = None,
    *,
    body: str | None = None,
    model: bool = False,
    version: bool = False,
) -> dict[str, Any]:
    responses = {"200": _json(answer), **(more or {})}
    if answer not in ("Live", "Ready"):
        responses = {status: _json("Error") for status in ("401", "429")} | responses
    if model or body:
        responses = {status: _json("Error") for status in ("400", "404", "413", "503")} | responses
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    names = [name for name, wanted in (("model", model), ("version", version)) if wanted]
    if names:
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _NAME} for name in names]
    if body:
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": _reference(body)}}}
    return operation


def _metrics() -> dict[str, Any]:
    """In Prometheus' own form, or OpenMetrics where that is accepted."""
    operation = _operation("All metrics of what the caller may see, summed over the cluster", "Metrics", {"503": _json("Error")})
    operation["responses"]["200"] = {
        "description": "for Prometheus",
        "content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")},
    }
    return operation


def _whether(what: str, *, version: bool = False) -> dict[str, Any]:
    return _operation(f"Whether {what}", "ModelReady", {"503": _json("ModelReady")}, model=True, version=version)


def _scoring(summary: str, body: str, answer: str, *, version: bool = False, binary: bool = False) -> dict[str, Any]:
    operation = _operation(
        summary, answer, {"403": _json("Error"), "500": _json("Error")}, body=body, model=True, version=version
    )
    operation["requestBody"]["required"] = True
    operation["parameters"] += [
        {"name": "x-routing-key", "in": "header", "schema": {"type": "string"}},
        {"name": "x-timeout-ms", "in": "header", "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999}},
    ]
    if binary:
        raw: dict[str, Any] = {"application/octet-stream": {}}
        operation["parameters"].append(
            {"name": "Inference-Header-Content-Length", "in": "header", "schema": {"type": "integer", "minimum": 0}}
        )
        operation["requestBody"]["content"] |= raw
        operation["responses"]["200"]["content"] |= raw
    return operation


def _json(schema: str) -> dict[str, Any]:
    return {"description": schema, "content": {"application/json": {"schema": _reference(schema)}}}


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Answers hold these fields and no others; all of them but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schemas() -> dict[str, Any]:
    text, flag, texts = {"type": "string"}, {"type": "boolean"}, {"type": "array", "items": {"type": "string"}}
    data = {"type": "array"}
    described = {"type": "array", "items": _object({"name": _NAME, "datatype": _DATATYPE, "shape": _METADATA_SHAPE})}
    dims = {"type": "array", "items": {"type": "integer", "minimum": -1}}
    configured = {"type": "array", "items": _object({"name": _NAME, "data_type": {"pattern": "^TYPE_"}, "dims": dims})}
    sent = _open({"name": _NAME, "shape": _SHAPE, "datatype": _DATATYPE, "parameters": _PARAMETERS, "data": data}, 3)
    told = _object(
        {"name": _NAME, "shape": _SHAPE, "datatype": _DATATYPE, "parameters": _PARAMETERS, "data": data}, "parameters", "data"
    )
    wanted = {"type": "array", "items": _open({"name": _NAME, "parameters": _PARAMETERS}, 1)}
    count = {"type": "integer", "minimum": 0}
    duration = _object({"count": count, "ns": count})
    durations = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    version = {
        "name": text,
        "version": text,
        "last_inference": count,
        "inference_count": count,
        "execution_count": count,
        "inference_stats": _object(dict.fromkeys(durations, duration)),
    }
    state = {"enum": ["READY", "LOADING", "UNAVAILABLE"]}
    inputs = {"type": "array", "items": sent, "minItems": 1}
    return {
        "Error": _object({"error": _NAME}),
        "Nothing": _object({}),
        "Live": _object({"live": flag}),
        "Ready": _object({"ready": flag}),
        "ServerMetadata": _object({"name": text, "version": text, "extensions": texts}),
        "ModelReady": _object({"name": text, "ready": flag}),
        "ModelMetadata": _object({"name": text, "versions": texts, "platform": text, "inputs": described, "outputs": described}),
        "ModelConfig": _object(
            {
                "name": text,
                "platform": text,
                "backend": text,
                "version_policy": {"type": "object"},
                "max_batch_size": {"type": "integer"},
                "input": configured,
                "output": configured,
            }
        ),
        "Index": {"type": "array", "items": _object({"name": text, "version": text, "state": state, "reason": text})},
        "Statistics": _object({"model_stats": {"type": "array", "items": _object(version)}}),
        "IndexRequest": _open({"ready": flag}, 0),
        "RepositoryRequest": _open({"parameters": {"type": "object"}}, 0),
        "InferRequest": _open({"inputs": inputs, "id": text, "parameters": _PARAMETERS, "outputs": wanted}, 1),
        "InferResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": _PARAMETERS,
                "outputs": {"type": "array", "items": told},
            },
            "id",
            "parameters",
        ),
        "V1Models": _object({"models": texts}),
        "V1Request": {
            "anyOf": [
                _open({"instances": {"type": "array", "minItems": 1}}, 1),
                _open({"inputs": {"type": ["array", "object"]}}, 1),
            ]
        },
        "V1Explanations": _object(
            {"explanations": {"type": "array", "items": {"type": "object"}}, "model_name": text, "model_version": text}
        ),
        "V1Response": _object(
            {"predictions": data, "outputs": {"type": ["array", "object"]}, "model_name": text, "model_version": text},
            "predictions",
            "outputs",
        ),
    }


def _open(properties: dict[str, Any], required: int) -> dict[str, Any]:
    """Requests need the first so many fields; what else a client sends is passed over."""
    return {"type": "object", "properties": properties, "required": list(properties)[:required]}
