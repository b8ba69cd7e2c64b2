"""Worker: an ONNX file, with external data or without -> one model.onnx that holds everything, and the file's own answers."""

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

from cluster.errors import BadInput
from deployments.builder.sources.answers import record
from deployments.builder.sources.binding import BY_NAME, select
from deployments.builder.sources.external_data import beside
from deployments.builder.sources.rows import ranged, read_inputs, rows_to_check
from deployments.builder.steps.free_batch import free_inputs, free_outputs, unservable
from deployments.builder.steps.graph import BATCH, input_specs, open_session, read_signature
from deployments.builder.steps.renaming import keep_outputs
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array
from deployments.engines.onnx import ORT_ERRORS, decode_text, encode_text

# A protobuf message can't be larger: above it the weights stay in a file of their own.
LARGEST_BYTES = 2**31 - 2**20


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, inputs (to check), outputs (to keep, in that order), constants, evaluate, task, target and expected (files to
    write)."""
    given, target = Path(job["file"]), Path(job["target"])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = beside(given, Path(folder))
        model = _read(file, given)
        session = open_session(file, given)
        _check(file, given)
        constants = {name: _constant(model, name, value, given) for name, value in job["constants"].items()}
        keep_outputs(model, list(select(job["outputs"], [item.name for item in model.graph.output], named=True).names))
        names = [item.name for item in model.graph.output]
        _bake(model, constants)
        fixed = free_inputs(model)
        onnx.save(model, target)
        declared = read_inputs(job)
        rows = rows_to_check(job["evaluate"], ranged(input_specs(open_session(target, given), declared, given), declared))
        source = PlainModel(session, names, constants, fixed)
        servable = [name for name in names if name not in unservable(model)]
        if servable:
            free_outputs(model, PlainModel(session, servable, constants, fixed).score({name: v[:2] for name, v in rows.items()}))
        onnx.save(model, target)
        read_signature(target, declared, names, given)
        told = record(source.score, rows, job)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), "unknown")
    return {
        "framework": f"onnx opset {opset}, by {model.producer_name or 'unknown'}",
        "inputs": BY_NAME,
        "outputs": BY_NAME,
        **({"constants": job["constants"]} if constants else {}),
        **({"fixed_batch": fixed} if fixed else {}),
        **told,
    }


def _read(file: Path, given: Path) -> onnx.ModelProto:
    """The model with its external data inside. Raises BadInput where a file is damaged, missing or outside the model's folder."""
    try:
        model = onnx.load(file)
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(error, given) from error
    if model.ByteSize() > LARGEST_BYTES:
        raise BadInput("is larger than 2 GB", where=str(given), remedy="compress it first, or serve it with engine: torch")
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


class PlainModel:
    """The file as it was given, in plain onnxruntime."""

    def __init__(
        self, session: ort.InferenceSession, names: Sequence[str], constants: Mapping[str, Array], fixed: int | None
    ) -> None:
        """`fixed` is the number of rows that the file takes at a time, where it takes one only."""
        self._session = session
        self._names = list(names)
        self._constants = constants
        self._fixed = fixed

    def score(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Its answers to any number of rows; a last batch that is too short is filled up with its last row."""
        rows = len(next(iter(inputs.values())))
        size = self._fixed or BATCH
        parts = []
        for start in range(0, rows, size):
            count = min(size, rows - start)
            places = np.arange(start, start + (self._fixed or count)).clip(max=rows - 1)
            parts.append([value[:count] for value in self._batch({name: value[places] for name, value in inputs.items()})])
        return {name: np.concatenate([part[place] for part in parts]) for place, name in enumerate(self._names)}

    def _batch(self, inputs: Mapping[str, Array]) -> list[Array]:
        feed = {**inputs, **self._constants}
        try:
            texts = {name: decode_text(value) if value.dtype == np.object_ else value for name, value in feed.items()}
            answers = self._session.run(self._names, texts)
        except ORT_ERRORS as error:
            first = str(error).strip().split("\n", 1)[0]
            raise BadInput(
                f"the model fails on the rows: {first}", where="evaluate.data", remedy="set it to a file of rows that it takes"
            ) from error
        return [encode_text(value) if value.dtype == np.object_ else value for value in answers]


if __name__ == "__main__":
    serve(step)
