"""Worker: an ONNX file, with external data or without -> one model.onnx that holds everything, or has its weights beside it where
that is above 2 GB; and the file's own answers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from cluster.errors import BadInput
from cluster.signature import TensorSpec
from deployments.builder.evaluation.quality import max_difference
from deployments.builder.sources.answers import record
from deployments.builder.sources.binding import BY_NAME, select
from deployments.builder.sources.external_data import beside, keep_outside, outside_bytes
from deployments.builder.sources.rows import ranged, read_inputs, rows_to_check
from deployments.builder.steps.free_batch import free_inputs, free_outputs, unservable
from deployments.builder.steps.graph import BATCH, input_specs, open_session, read_signature
from deployments.builder.steps.renaming import keep_outputs
from deployments.builder.steps.row_by_row import RowTensor, moved_axis, row_axes, row_by_row, rows_first
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array
from deployments.engines.failures import told_by
from deployments.engines.onnx import ORT_ERRORS, decode_text, encode_text

Axes = Mapping[str, int | None]
# What is told of a file that takes its rows one after the other.
ROW_BY_ROW = "row_by_row"
# How near a freed graph must come to the file, to be held against it more closely afterwards.
ALIKE = 1e-3
# A protobuf message can't be larger: above it the weights stay in a file of their own.
LARGEST_BYTES = 2**31 - 2**20


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, inputs (to check), outputs (to keep, in that order), constants, evaluate, task, target and expected (files to
    write)."""
    given, target = Path(job["file"]), Path(job["target"])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = beside(given, Path(folder))
        model = _read(file, given, target)
        session = open_session(file, given)
        _check(file, given)
        constants = {name: _constant(model, name, value, given) for name, value in job["constants"].items()}
        keep_outputs(model, list(select(job["outputs"], [item.name for item in model.graph.output], named=True).names))
        names = [item.name for item in model.graph.output]
        _bake(model, constants)
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
        axes: dict[str, int | None] = {**row_axes(model)}
        fixed = None if any(axes.values()) else free_inputs(model)
        onnx.save(model, target)
        declared = read_inputs(job)
        specs = input_specs(open_session(target, given), declared, given, axes)
        rows = rows_to_check(job["evaluate"], ranged(specs, declared))
        source = PlainModel(session, names, constants, fixed)
        if any(axes.values()):
            axes |= output_axes(session, names, constants, axes, rows, given)
            source = PlainModel(session, names, constants, None, axes)
        servable = [name for name in names if name not in unservable(model)]
        if fixed == 1:
            axes |= _without_rows(session, servable, constants, rows)
            source = PlainModel(session, names, constants, fixed, axes)
        few = {name: value[:2] for name, value in rows.items()}
        answers = PlainModel(session, servable, constants, fixed, axes).score(few) if servable else {}
        tensors = _row_tensors(specs, answers, axes)
        if any(axes.values()):
            rows_first(model, *tensors)
        free_outputs(model, answers)
        onnx.save(model, target)
        one_by_one = False
        if fixed == 1 and servable == names and not _takes_many(target, answers, few):
            whole = row_by_row(plain, *tensors)
            one_by_one = whole is not None
            onnx.save(whole or model, target)
        read_signature(target, declared, names, given)
        told = record(source.score, rows, job)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), "unknown")
    return {
        "framework": f"onnx opset {opset}, by {model.producer_name or 'unknown'}",
        "inputs": BY_NAME,
        "outputs": BY_NAME,
        **({"constants": job["constants"]} if constants else {}),
        **({ROW_BY_ROW: True} if one_by_one else {"fixed_batch": fixed} if fixed else {}),
        **told,
    }


def _read(file: Path, given: Path, target: Path) -> onnx.ModelProto:
    """The model with its external data inside; beside `target` where that is more than a file can hold. Raises BadInput where a
    file is damaged, missing or outside the model's folder."""
    try:
        model = onnx.load(file, load_external_data=False)
        if model.ByteSize() + outside_bytes(model, file.parent) <= LARGEST_BYTES:
            load_external_data_for_model(model, str(file.parent))
        else:
            onnx.checker.check_model(file)  # that no weights lead out of the folder, for one
            keep_outside(model, file.parent, target)
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(error, given) from error
    if model.ByteSize() > LARGEST_BYTES:
        raise BadInput("is larger than 2 GB", where=str(given), remedy="export it with its weights in a file beside it")
    return model


def _check(file: Path, given: Path) -> None:
    try:
        onnx.checker.check_model(file)
    except (onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(error, given) from error


def _damaged(error: Exception, file: Path) -> BadInput:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return BadInput(f"is no whole ONNX model: {first}", where=str(file), remedy="export it again, external data beside it")


def _constant(model: onnx.ModelProto, name: str, value: Any, file: Path) -> Array:
    """The value as the graph's input of that name takes it. Raises BadInput."""
    item = next((one for one in model.graph.input if one.name == name), None)
    if item is None:
        known = ", ".join(one.name for one in model.graph.input)
        raise BadInput(f"the model has no input {name}; it has {known}", where="constants", remedy="use the names in the file")
    tensor = item.type.tensor_type
    axes = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
    try:
        found = np.asarray(value, dtype=helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise BadInput(
            f"{name} can't be made of that value: {error}", where="constants", remedy=f"see what {file.name} takes"
        ) from error
    if found.ndim == 0 and axes and all(axis == 1 for axis in axes):
        found = found.reshape(axes)
    if found.ndim != len(axes) or any(want not in (-1, have) for want, have in zip(axes, found.shape, strict=True)):
        raise BadInput(
            f"{name} has shape {list(found.shape)}, the model takes {axes}", where="constants", remedy="give it in that shape"
        )
    return found


def _bake(model: onnx.ModelProto, constants: Mapping[str, Array]) -> None:
    """Turns inputs into constants of the graph."""
    kept = [item for item in model.graph.input if item.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())


def _takes_many(file: Path, answers: Mapping[str, Array], few: Mapping[str, Array]) -> bool:
    """Whether the freed graph gives the same answers to these rows together as the file did one by one."""
    session = open_session(file)
    if any(isinstance(item.shape[0], int) for item in session.get_outputs()):
        return False
    try:
        found = PlainModel(session, list(answers), {}, None).score(few)
    except BadInput:
        return False
    if any(found[name].shape != value.shape for name, value in answers.items()):
        return False
    scale = max([1.0, *(float(np.abs(value).max(initial=0)) for value in answers.values() if value.dtype.kind == "f")])
    return max_difference(found, answers) <= ALIKE * scale


def _row_tensors(
    specs: Sequence[TensorSpec], answers: Mapping[str, Array], axes: Axes
) -> tuple[dict[str, RowTensor], dict[str, RowTensor]]:
    """Where the rows of inputs and outputs lie in the file. Answers are as long as those seen, where nothing else may vary."""
    same = all(axis > 0 for spec in specs for axis in spec.shape[1:])
    outputs = {}
    for name, value in answers.items():
        shape = tuple(value.shape[1:]) if same else (-1,) * (value.ndim - 1)
        outputs[name] = RowTensor(axes.get(name, 0), shape)
    return {spec.name: RowTensor(axes.get(spec.name, 0), spec.shape[1:]) for spec in specs}, outputs


def _without_rows(
    session: ort.InferenceSession, names: Sequence[str], constants: Mapping[str, Array], rows: Mapping[str, Array]
) -> dict[str, None]:
    """The outputs of a file that takes one row which are that row's answer as a whole."""
    answers = PlainModel(session, names, constants, 1).batch({name: value[:1] for name, value in rows.items()})
    return {name: None for name, value in zip(names, answers, strict=True) if value.shape[:1] != (1,)}


def output_axes(
    session: ort.InferenceSession,
    names: Sequence[str],
    constants: Mapping[str, Array],
    axes: Axes,
    rows: Mapping[str, Array],
    file: Path,
) -> dict[str, int]:
    """Along which axis of each output the rows lie, by two and by three of them. Raises BadInput where none of its axes grows."""
    two, three = (
        PlainModel(session, names, constants, None, axes).batch(
            {name: np.resize(v, (count, *v.shape[1:])) for name, v in rows.items()}
        )
        for count in (2, 3)
    )
    found = {}
    for name, few, more in zip(names, two, three, strict=True):
        axis = moved_axis(few.shape, more.shape)
        if axis is None:
            others = [one for one, a, b in zip(names, two, three, strict=True) if moved_axis(a.shape, b.shape) is not None]
            raise BadInput(
                f"output {name} has no axis that rows lie along",
                where=str(file),
                remedy=f"leave it out: outputs: [{', '.join(others)}]" if others else "export it with a value for each row",
            )
        found[name] = axis
    return found


class PlainModel:
    """The file as it was given, in plain onnxruntime."""

    def __init__(
        self,
        session: ort.InferenceSession,
        names: Sequence[str],
        constants: Mapping[str, Array],
        fixed: int | None,
        axes: Axes | None = None,
    ) -> None:
        """`fixed` is the number of rows that the file takes at a time, where it takes one only; `axes` are those that rows lie
        along in the file, where not the first; None where an output is one row's as a whole."""
        self._session = session
        self._names = list(names)
        self._constants = constants
        self.fixed = fixed
        self._axes = axes or {}

    def score(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Its answers to any number of rows; a last batch that is too short is filled up with its last row."""
        rows = len(next(iter(inputs.values())))
        size = self.fixed or BATCH
        parts = []
        for start in range(0, rows, size):
            count = min(size, rows - start)
            places = np.arange(start, start + (self.fixed or count)).clip(max=rows - 1)
            answers = self.batch({name: value[places] for name, value in inputs.items()})
            turned = [self._turned(name, value) for name, value in zip(self._names, answers, strict=True)]
            parts.append([value[:count] for value in turned])
        return {name: np.concatenate([part[place] for part in parts]) for place, name in enumerate(self._names)}

    def _turned(self, name: str, value: Array) -> Array:
        axis = self._axes.get(name, 0)
        return value[None] if axis is None else np.moveaxis(value, axis, 0)

    def batch(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Its answers as they come. Raises BadInput where it fails on the rows."""
        feed = {name: np.moveaxis(value, 0, self._axes.get(name) or 0) for name, value in inputs.items()} | dict(self._constants)
        try:
            texts = {name: decode_text(value) if value.dtype == np.object_ else value for name, value in feed.items()}
            answers = self._session.run(self._names, texts)
        except ORT_ERRORS as error:
            raise BadInput(
                f"the model fails on the rows: {told_by(error)}",
                where="evaluate.data",
                remedy="set it to a file of rows that it takes",
            ) from error
        return [encode_text(value) if value.dtype == np.object_ else value for value in answers]


if __name__ == "__main__":
    serve(step)
