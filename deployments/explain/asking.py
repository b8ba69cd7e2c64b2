"""From a document's or a request's `explain` section to options, checked against the version's signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import BadInput
from cluster.findings import first_finding
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array
from deployments.explain.form import ExplainMethod, ExplainOptions, ExplainScale
from deployments.scoring.nonfinite import numbers

MOST_EVALUATIONS = 1_000_000
LONGEST_S = 600.0


class ExplainSection(BaseModel):
    """How a row is explained; everything may be left out. See docs/explain.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    method: ExplainMethod = ExplainMethod.AUTO
    output: str | None = Field(default=None, description="the output to explain; the first of scores where left out")
    label: bool | int | str | None = Field(
        default=None, alias="class", description="the class to explain, by its name or place; the row's own where left out"
    )
    scale: ExplainScale | None = Field(
        default=None, description="log-odds for class probabilities, raw for others where left out"
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default={}, description="features that are swapped as one: `{address: [zip, city]}`; a value of a list is `image[3,5]`"
    )
    blocks: int | None = Field(default=None, ge=1, description="the side in pixels of the squares that an image is cut into")
    baseline: dict[str, Any] | None = Field(
        default=None,
        description="by input the row to compare with, in its shape, or one value; the background rows where left out",
    )
    evaluations: int = Field(
        default=10_000, ge=1, le=MOST_EVALUATIONS, description="how many rows may be scored for a row explained"
    )
    seed: int = Field(default=0, ge=0)
    deadline_s: float | None = Field(default=None, gt=0, le=LONGEST_S, description="what is not computed by then is left out")


def read_options(given: Mapping[str, Any], signature: Signature) -> ExplainOptions:
    """The options that a mapping of plain values asks for. Raises BadInput that names the field."""
    try:
        section = ExplainSection.model_validate(dict(given))
    except ValidationError as error:
        found = first_finding(error)
        field = f"explain.{found.field}" if found.field else "explain"
        known = ", ".join("class" if name == "label" else name for name in ExplainSection.model_fields)
        raise BadInput(found.words, where=field, remedy=f"correct it; its fields are {known}") from error
    return section_options(section, signature)


def section_options(section: ExplainSection, signature: Signature) -> ExplainOptions:
    """The same for a section that is part of a document. Raises BadInput."""
    if section.output is not None and signature.output(section.output) is None:
        known = ", ".join(spec.name for spec in signature.outputs)
        raise BadInput("the version has no such output", where="explain.output", remedy=f"name one of {known}")
    return ExplainOptions(
        method=section.method,
        output=section.output,
        label=section.label,
        scale=section.scale,
        groups=section.groups,
        blocks=section.blocks,
        baseline=None if section.baseline is None else _baseline(section.baseline, signature),
        evaluations=section.evaluations,
        seed=section.seed,
        deadline_s=section.deadline_s,
    )


def _baseline(given: Mapping[str, Any], signature: Signature) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, value in given.items():
        spec = signature.input(name)
        where = f"explain.baseline.{name}"
        if spec is None:
            known = ", ".join(spec.name for spec in signature.inputs)
            raise BadInput("the version has no such input", where=where, remedy=f"name one of {known}")
        found[name] = as_tensor(value, spec, where)
    return found


def as_tensor(value: Any, spec: TensorSpec, where: str) -> Array:
    """An array of the input's datatype, in whatever shape was given. Raises BadInput."""
    items = np.array(value, dtype=np.object_)
    flat = items.ravel().tolist()
    try:
        made = _texts(flat) if spec.datatype is Datatype.BYTES else _numbers(flat, spec.datatype)
    except (TypeError, ValueError, OverflowError):  # which quote values
        raise BadInput(
            f"is no value or nested list of {spec.datatype}", where=where, remedy="give it as a row of the input has it"
        ) from None
    return made.reshape(items.shape)


def _texts(items: list[Any]) -> Array:
    if not all(isinstance(item, str | bytes) for item in items):
        raise TypeError("text is wanted")
    made = np.empty(len(items), np.object_)
    made[:] = [item.encode() if isinstance(item, str) else item for item in items]
    return made


def _numbers(items: list[Any], datatype: Datatype) -> Array:
    dtype = NUMPY[datatype]
    if datatype is Datatype.BF16:
        return _bfloat16(numbers(items))
    if dtype.kind == "f":
        return numbers(items).astype(dtype)
    wide = np.array(items)
    made: Array = wide.astype(dtype)
    if wide.dtype.kind not in "iufb" or not np.array_equal(made, wide):
        raise TypeError("a whole number that fits is wanted")
    return made


def _bfloat16(wide: Array) -> Array:
    bits = wide.astype(np.float32).view(np.uint32)
    return np.asarray((bits >> 16).astype(np.uint16))
