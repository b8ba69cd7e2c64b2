"""What the workers for fitted estimators share: columns or one matrix in, class and probabilities or a number out, thresholds.

A tree's answer jumps by a whole leaf where a feature passes a threshold, so that rounding a threshold to float32 shows in no mean
error: rows that differ are counted, also on rows that lie at every threshold and one step of float32 to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.evaluation.quality import row_differences
from deployments.builder.sources.answers import record
from deployments.builder.sources.binding import BY_NAME, bind, select
from deployments.builder.sources.rows import as_bytes, read_inputs, rows_to_check
from deployments.builder.spec import InputSpec
from deployments.builder.steps.free_batch import free_outputs
from deployments.builder.steps.renaming import keep_outputs, rename
from deployments.engines.datatypes import NUMPY, Array
from deployments.engines.onnx import decode_text, encode_text

MATRIX = "input"
LABEL, PROBABILITIES, PREDICTION = "label", "probabilities", "prediction"
MOST_THRESHOLDS = 2000
# As onnxruntime's float32 sums of many leaves differ from double ones.
SAME = 1e-5


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted estimator: its ONNX form, its own answers by output, and its trees' thresholds as (feature, threshold)."""

    model: onnx.ModelProto
    score: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    framework: str
    thresholds: Sequence[tuple[int, float]] = ()
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """The inputs of an estimator over numbers: one matrix, or a column each, in the estimator's own order."""

    inputs: tuple[TensorSpec, ...]
    width: int
    how: str

    @property
    def split(self) -> bool:
        """Whether there is an input for each column."""
        return len(self.inputs) > 1 or (self.width == 1 and self.inputs[0].name != MATRIX)

    def matrix(self, rows: Mapping[str, Array]) -> Array:
        """The rows as one matrix."""
        return np.concatenate([rows[spec.name] for spec in self.inputs], axis=1) if self.split else rows[self.inputs[0].name]


def columns(job: Mapping[str, Any], width: int, names: Sequence[str], datatypes: Sequence[Datatype]) -> Columns:
    """Reads the document's inputs for an estimator of `width` numbers, called `names` where it knows. Raises BadInput."""
    listed = read_inputs(job) or [InputSpec(name=MATRIX, datatype=Datatype.FP32, shape=(-1, width))]
    wrong = next((spec for spec in listed if spec.datatype not in datatypes), None)
    if wrong is not None:
        known = " or ".join(str(one) for one in datatypes)
        raise BadInput(f"input {wrong.name} is {wrong.datatype}", where="inputs", remedy=f"this kind of model reads {known}")
    if len(listed) == 1 and listed[0].shape == (-1, width):
        return Columns(tuple(spec_of(one) for one in listed), width, BY_NAME)
    if any(spec.shape != (-1, 1) for spec in listed) or len({spec.datatype for spec in listed}) > 1:
        raise BadInput(
            f"the model reads {width} numbers a row",
            where="inputs",
            remedy=f"list one input of shape [-1, {width}], or {width} of shape [-1, 1] and one datatype",
        )
    by_name = {spec.name: spec for spec in listed}
    if not names:
        if len(listed) != width:
            raise BadInput(
                f"{len(listed)} columns are listed, the model reads {width}", where="inputs", remedy="list each, in order"
            )
        return Columns(tuple(spec_of(one) for one in listed), width, "in the order listed: the source has no names")
    binding = bind(list(by_name), list(names), what="inputs")
    return Columns(tuple(spec_of(by_name[name]) for name in binding.names.values()), width, binding.how)


def spec_of(spec: TensorSpec) -> TensorSpec:
    """The input as it stands in a signature."""
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def merge_columns(model: onnx.ModelProto, found: Columns) -> None:
    """Puts a Concat of the columns in front of a graph that reads one matrix, or names that as the document does; in place."""
    given = model.graph.input[0].name
    if not found.split:
        rename(model, {given: found.inputs[0].name})
        return
    number = TensorProto.DOUBLE if found.inputs[0].datatype is Datatype.FP64 else TensorProto.FLOAT
    names = [spec.name for spec in found.inputs]
    rename(model, {given: "columns.merged"})
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([helper.make_node("Concat", names, ["columns.merged"], axis=1), *nodes])
    del model.graph.input[:]
    model.graph.input.extend(helper.make_tensor_value_info(name, number, ["batch", 1]) for name in names)


def finish(fitted: Fitted, inputs: Sequence[TensorSpec], how: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Selects outputs, writes the model and the source's own answers, and tells how many rows differ."""
    rows = rows_to_check(
        job["evaluate"], [next((one for one in read_inputs(job) if one.name == spec.name), spec) for spec in inputs]
    )
    model = fitted.model
    few = {name: value[:2] for name, value in rows.items()}
    plain = dict(fitted.score(few))
    shown = [item.name for item in model.graph.output]
    own = dict(zip(shown, plain, strict=True))
    binding = select(job["outputs"], list(own.values()), named=len(own) > 1)
    rename(model, {old: binding.names.get(new, new) for old, new in own.items()})
    keep_outputs(model, list(binding.names.values()))
    free_outputs(model, _run(model, few))
    onnx.save(model, job["target"])

    def score(batch: Mapping[str, Array]) -> dict[str, Array]:
        found = fitted.score(batch)
        return {new: found[old] for old, new in binding.names.items()}

    told = record(score, rows, job)
    return {
        "framework": fitted.framework,
        "inputs": how,
        "outputs": binding.how,
        **fitted.told,
        "differ": _differ(model, score, rows, fitted.thresholds, inputs),
        **told,
    }


def as_answers(fields: Mapping[str, Any]) -> dict[str, Array]:
    """An estimator's answers as an engine gives them: labels int64 or BYTES, numbers float32."""
    found: dict[str, Array] = {}
    for name, value in fields.items():
        array = np.asarray(value)
        if array.dtype.kind in "OUS":
            found[name] = as_bytes(array.astype(str))
        elif array.dtype.kind in "bui":
            found[name] = array.astype(np.int64)
        else:
            found[name] = array.astype(np.float32)
    return found


def _differ(
    model: onnx.ModelProto,
    score: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    rows: Mapping[str, Array],
    thresholds: Sequence[tuple[int, float]],
    inputs: Sequence[TensorSpec],
) -> dict[str, Any]:
    """How many rows get another answer, of those given and of those at thresholds."""
    told: dict[str, Any] = {"rows": len(next(iter(rows.values()))), "other": _count(model, score, rows)}
    at = _at_thresholds(rows, thresholds, inputs)
    if at:
        told |= {"at_thresholds": len(next(iter(at.values()))), "other_at_thresholds": _count(model, score, at)}
    return told


def _count(model: onnx.ModelProto, score: Callable[[Mapping[str, Array]], Mapping[str, Array]], rows: Mapping[str, Array]) -> int:
    mine, theirs = _run(model, rows), score(rows)
    scale = {name: max(1.0, float(np.abs(v).max(initial=0))) if v.dtype.kind == "f" else 1.0 for name, v in theirs.items()}
    apart = [row_differences(mine[name], value) / scale[name] for name, value in theirs.items()]
    return int((np.max(apart, axis=0) > SAME).sum())


def _at_thresholds(
    rows: Mapping[str, Array], thresholds: Sequence[tuple[int, float]], inputs: Sequence[TensorSpec]
) -> dict[str, Array]:
    """The first row with one feature at each threshold, and one step of its datatype below and above."""
    tried = sorted(set(thresholds))[:MOST_THRESHOLDS]
    if not tried:
        return {}
    dtype: np.dtype[Any] = NUMPY[inputs[0].datatype]
    split = len(inputs) > 1
    base = np.concatenate([rows[spec.name][:1] for spec in inputs], axis=1) if split else rows[inputs[0].name][:1]
    many = np.repeat(base, 3 * len(tried), axis=0)
    for place, (feature, threshold) in enumerate(tried):
        value = np.asarray(threshold, dtype)
        with np.errstate(over="ignore"):  # one step beyond the largest number is infinity
            low, high = np.nextafter(value, np.asarray(-np.inf, dtype)), np.nextafter(value, np.asarray(np.inf, dtype))
        many[3 * place : 3 * place + 3, feature] = [low, value, high]
    return {spec.name: many[:, i : i + 1] for i, spec in enumerate(inputs)} if split else {inputs[0].name: many}


def _run(model: onnx.ModelProto, rows: Mapping[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in model.graph.output]
    feed = {name: decode_text(value) if value.dtype == np.object_ else value for name, value in rows.items()}
    return {
        name: encode_text(value) if value.dtype == np.object_ else value
        for name, value in zip(names, session.run(names, feed), strict=True)
    }


def splits(node: Any, feature: str, threshold: str) -> Iterator[tuple[int, float]]:
    """The (feature, threshold) of each split in a tree that is written as nested dicts."""
    if isinstance(node, dict):
        if isinstance(node.get(feature), int) and isinstance(node.get(threshold), int | float):
            yield node[feature], float(node[threshold])
        for inner in node.values():
            yield from splits(inner, feature, threshold)
    elif isinstance(node, list):
        for inner in node:
            yield from splits(inner, feature, threshold)


def needs(file: Path, error: Exception, remedy: str) -> BadInput:
    """What a library has against a file, or can't convert."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return BadInput(f"can't be converted: {first}", where=str(file), remedy=remedy)
