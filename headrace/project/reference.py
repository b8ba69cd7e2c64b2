"""The project file reference, written from the documents' own types by `make reference`."""

from __future__ import annotations

import inspect
import sys
import types
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cluster.access.policy import Access
from cluster.drift.section import Drift
from cluster.fleet.serving import Serving
from cluster.quality.section import LiveLabels
from cluster.rollout.plan import Plan
from cluster.watch.payloads import Payloads
from consumers.batch.spec import BatchSpec
from consumers.stream.spec import StreamSpec
from deployments.builder.spec import BuildSpec

HEADER = """# Project files

Written from the code by `make reference`; a test fails when it is out of date.

YAML documents of kind `Model`, `Stream`, `Batch`, `Access` or `Project`, one or several in a file. Paths are relative to their
file. Fields that are not listed here are refused. Every document has `kind` and `name` (lower-case letters, digits, single
dashes; a Model's also capitals, underscores and dots), but Access, of which there is one. A Model has the sections `build`,
`serving`, `rollout`, `payloads`, `drift` and `labels`; a Stream's and a Batch's fields stand beside `kind` and `name`.

A Project has nothing else. One in a folder says that all documents applied with it belong to that project from then on (until
they are applied with another): `headrace apply --prune` then removes what belongs to it and has no document any more.
"""

DOCUMENTS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("Model", "build", BuildSpec),
    ("Model", "serving", Serving),
    ("Model", "rollout", Plan),
    ("Model", "payloads", Payloads),
    ("Model", "drift", Drift),
    ("Model", "labels", LiveLabels),
    ("Stream", "", StreamSpec),
    ("Batch", "", BatchSpec),
    ("Access", "", Access),
)


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [HEADER]
    kind_before = ""
    for kind, path, spec in DOCUMENTS:
        if kind != kind_before:
            parts.append(f"\n## {kind}\n")
            kind_before = kind
        parts.extend(_section(path, spec))
    return "".join(parts)


def _section(path: str, spec: type[BaseModel]) -> list[str]:
    parts = [f"\n### `{path}`\n" if path else "", "\n" + (inspect.getdoc(spec) or "") + "\n"]
    parts.append("\n| field | type | default | |\n|---|---|---|---|\n")
    inner: list[str] = []
    for name, field in spec.model_fields.items():
        shown = field.alias or name
        parts.append(f"| `{shown}` | {_type(field.annotation)} | {_default(field)} | {_bounds(field)} |\n")
        for nested in _models(field.annotation):
            inner.extend(_section(f"{path}.{shown}" if path else shown, nested))
    return parts + inner


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return "`[" + ", ".join(_flow(one) for one in value) + "]`"
    return f"`{value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value}`"


def _flow(value: BaseModel) -> str:
    changed = value.model_dump(exclude_unset=True, mode="json")
    return (
        "{" + ", ".join(f"{name}: {one:g}" if isinstance(one, float) else f"{name}: {one}" for name, one in changed.items()) + "}"
    )


def _bounds(field: FieldInfo) -> str:
    words = [field.description or ""]
    for bound, sign in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        words.extend(f"{sign} {getattr(meta, bound)}" for meta in field.metadata if getattr(meta, bound, None) is not None)
    return "; ".join(word for word in words if word).replace("|", "\\|")


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return " \\| ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return "list of " + _type(arguments[0]) if arguments[-1] is Ellipsis else f"[{', '.join(map(_type, arguments))}]"
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return " \\| ".join(f"`{one.value}`" for one in annotation)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any"}
    return words.get(getattr(annotation, "__name__", str(annotation)), str(annotation))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


if __name__ == "__main__":
    sys.stdout.write(reference())
