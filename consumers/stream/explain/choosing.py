"""Which records are explained. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from cluster.routing.routes import WEIGHT_UNIT
from cluster.routing.split import to_candidate
from cluster.signature import Signature
from consumers.stream.explain.section import Comparison, ExplainWhere
from consumers.stream.log.port import Records
from consumers.stream.outgoing.answers import prediction_ids
from deployments.engines.datatypes import Array

Mask = npt.NDArray[np.bool_]
# Another than any split's: who is in a canary is no likelier to be explained.
SALT = 0x6578706C
_COMPARE: Mapping[Comparison, Callable[[Any, Any], Any]] = {
    Comparison.EQUAL: operator.eq,
    Comparison.UNEQUAL: operator.ne,
    Comparison.LESS: operator.lt,
    Comparison.AT_MOST: operator.le,
    Comparison.MORE: operator.gt,
    Comparison.AT_LEAST: operator.ge,
}


def sampled(slices: Sequence[Records], share: float) -> list[int]:
    """The rows of these slices, joined, that are in the sample and can be read; by their places, so after a replay the same."""
    found: list[int] = []
    begin = 0
    weight, random = max(round(share * WEIGHT_UNIT), 1), np.random.default_rng(0)
    for records in slices:
        chosen = to_candidate(prediction_ids(records.origin), salt=SALT, weight=weight, random=random)
        found += [begin + row for row in np.flatnonzero(chosen).tolist() if row not in records.unreadable]
        begin += len(records)
    return found


def split_conditions(
    conditions: Sequence[ExplainWhere], signature: Signature
) -> tuple[tuple[ExplainWhere, ...], tuple[ExplainWhere, ...]]:
    """Those on inputs, and those on outputs. Raises BadInput for a name that is neither."""
    of_inputs = tuple(one for one in conditions if signature.input(one.name) is not None)
    of_outputs = tuple(one for one in conditions if signature.input(one.name) is None)
    for one in of_outputs:
        if signature.output(_parts(one.name)[1]) is None:
            known = ", ".join(spec.name for spec in (*signature.inputs, *signature.outputs))
            raise BadInput(f"the model has no {one.name}", where="spec.explain.where", remedy=f"name one of {known}")
    return of_inputs, of_outputs


def holding(conditions: Sequence[ExplainWhere], tensors: Mapping[str, Array], rows: int) -> Mask:
    """For which of n rows all conditions hold, bool [n]. Raises BadInput where a tensor has several values a row."""
    found = np.ones(rows, np.bool_)
    for one in conditions:
        call, name = _parts(one.name)
        values = tensors[name].reshape(rows, -1)
        if call:
            values = (values.argmax(axis=1) if call == "argmax" else values.max(axis=1))[:, None]
        if values.shape[1] != 1:
            raise BadInput(
                f"{name} has {values.shape[1]} values a row",
                where="spec.explain.where",
                remedy=f"say argmax({name}) or max({name}), or name another",
            )
        wanted = one.value.encode() if isinstance(one.value, str) else one.value
        told = [_COMPARE[one.operator](_plain(value), wanted) for value in values[:, 0].tolist()]
        found &= np.array(told, np.bool_)
    return found


def _plain(value: object) -> object:
    return value.encode() if isinstance(value, str) else value


def _parts(name: str) -> tuple[str, str]:
    """`argmax(p)` as `argmax` and `p`; a plain name with no call."""
    call, bracket, rest = name.partition("(")
    return (call, rest.removesuffix(")").strip()) if bracket else ("", name)
