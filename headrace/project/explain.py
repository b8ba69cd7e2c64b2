"""Turns pydantic's findings about a document into one error that names file, line, field and remedy."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import BadInput
from cluster.findings import sentence
from headrace.project.yaml_source import FieldPath, Source

SHOWN = 10


def explain(error: ValidationError, source: Source, shape: type[BaseModel], under: FieldPath = ()) -> BadInput:
    """All findings, the first one as the error itself. `shape` is what was validated, `under` where it stands in the document."""
    # A misspelt field is often the cause of a missing one, so it is told first.
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] == "missing")
    first, *others = [_sentence(finding, source, shape, under) for finding in findings]
    where, what, remedy = first
    if not others:
        return BadInput(what, where=where, remedy=remedy)
    more = [f"{place}: {also} ({cure})" for place, also, cure in others[:SHOWN]]
    return BadInput("\n".join([f"{what} ({remedy})", *more]), where=where)


def _sentence(finding: ErrorDetails, source: Source, shape: type[BaseModel], under: FieldPath) -> tuple[str, str, str]:
    path = _in_document(finding["loc"], source, under)
    where = source.where(path)
    if finding["type"] == "extra_forbidden":
        unknown = str(finding["loc"][-1])
        known = sorted({name for model in _models_at(shape, finding["loc"][:-1]) for name in model.model_fields})
        return where, "unknown field", did_you_mean(unknown, known)
    if finding["type"] == "missing":
        return where, "missing", "add this field"
    message = sentence(finding)
    given = finding["input"]
    shown = f"; got {given!r}" if isinstance(given, str | int | float | bool) and repr(given) not in message else ""
    return where, f"{message[:1].lower()}{message[1:]}{shown}", "correct this field"


def did_you_mean(unknown: str, known: list[str]) -> str:
    """The remedy for a name that is not among those known."""
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known here: {', '.join(known)}" if known else "remove it"


def _in_document(loc: tuple[int | str, ...], source: Source, under: FieldPath) -> FieldPath:
    """pydantic's location without the names of union members, which no document holds."""
    path = under
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if last or (*path, part) in source.lines:
            path = (*path, part)
    return path if path in source.lines or not _is_member_name(path) else path[:-1]


def _is_member_name(path: FieldPath) -> bool:
    last = path[-1] if path else ""
    return isinstance(last, str) and not last.isidentifier()


def _models_at(shape: Any, loc: tuple[int | str, ...]) -> Iterator[type[BaseModel]]:
    """The models that may stand at `loc` inside `shape`. A part that names no field (an index, a union member) is passed over."""
    here = list(_models_in(shape))
    for part in loc:
        below = [
            model
            for holder in here
            for name, field in holder.model_fields.items()
            if part in (name, field.alias)
            for model in _models_in(field.annotation)
        ]
        here = below or here
    yield from here


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)
