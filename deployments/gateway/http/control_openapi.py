"""The control API's part of the OpenAPI document, made from the registry of commands."""

from __future__ import annotations

import functools
from typing import Any

from pydantic.json_schema import JsonSchemaMode, models_json_schema

from cluster.commands.registry import COMMANDS

PREFIX = "control."  # before the names of its schemas: others in the document have the same
REFUSALS = ("400", "401", "403", "404", "409", "413", "429", "500", "503")
_ERROR = {
    "type": "object",
    "properties": {"error": {"$ref": f"#/components/schemas/{PREFIX}ErrorDetail"}},
    "required": ["error"],
}
_DETAIL = {"type": "object", "properties": {name: {"type": "string"} for name in ("kind", "what", "where", "remedy")}}


@functools.cache  # some hundred milliseconds of the gateway's loop; callers only read it
def control_openapi() -> tuple[dict[str, Any], dict[str, Any]]:
    """The paths, and the schemas that they refer to."""
    asked: list[tuple[Any, JsonSchemaMode]] = [(entry.request, "validation") for entry in COMMANDS.values()]
    answered: list[tuple[Any, JsonSchemaMode]] = [(entry.answer, "serialization") for entry in COMMANDS.values()]
    references, defined = models_json_schema([*asked, *answered], ref_template=f"#/components/schemas/{PREFIX}{{model}}")
    schemas = {f"{PREFIX}{name}": schema for name, schema in defined["$defs"].items()}
    schemas |= {f"{PREFIX}Error": _ERROR, f"{PREFIX}ErrorDetail": _DETAIL}
    refused = _content({"$ref": f"#/components/schemas/{PREFIX}Error"}, "why it is refused")
    paths = {
        f"/control/{name}": {
            "post": {
                "summary": entry.summary,
                "tags": ["control"],
                "requestBody": {"required": True} | _content(references[entry.request, "validation"]),
                "responses": {"200": _content(references[entry.answer, "serialization"], "the answer")}
                | dict.fromkeys(REFUSALS, refused),
            }
        }
        for name, entry in COMMANDS.items()
    }
    return paths, schemas


def _content(schema: Any, description: str = "") -> dict[str, Any]:
    content: dict[str, Any] = {"content": {"application/json": {"schema": schema}}}
    return {"description": description} | content if description else content
