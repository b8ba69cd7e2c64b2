"""Runs an ONNX file on rows, and reads from it the signature of the version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.builder.sources.binding import select
from deployments.builder.spec import InputSpec
from deployments.engines.datatypes import Array
from deployments.engines.onnx import ORT_ERRORS
from deployments.engines.port import Engine

DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
BATCH = 256


def read_signature(
    file: Path, inputs: Sequence[InputSpec] = (), outputs: Sequence[str] = (), where: Path | None = None
) -> Signature:
    """What the ONNX file takes, and gives of `outputs` (all where none is listed), in that order.

    Axes that the file leaves free are as `inputs` says. Raises BadInput where it is no model, or where a tensor that is named is
    unknown or can't be served; outputs that nobody asked for are not looked at. Errors name `where`, or else the file.
    """
    session, where = open_session(file, where), where or file
    given = {item.name: item for item in session.get_outputs()}
    binding = select(outputs, list(given), named=True)
    return Signature(
        inputs=input_specs(session, inputs, where),
        outputs=tuple(_output(given[name], list(given.values()), where) for name in binding.names),
    )


@dataclass(frozen=True, slots=True)
class _Turned:
    """An input of a graph as it would be with its rows along the first axis."""

    name: str
    type: str
    shape: list[int | str | None]


def input_specs(
    session: ort.InferenceSession, declared: Sequence[InputSpec], file: Path, axes: Mapping[str, int | None] | None = None
) -> tuple[TensorSpec, ...]:
    """What a file takes; axes that it leaves free are as `declared`. `axes` are those that rows lie along, where not the first.

    Raises BadInput.
    """
    items = [_rows_first(item, (axes or {}).get(item.name) or 0) for item in session.get_inputs()]
    found = tuple(_input(item, items, file) for item in items)
    check_inputs(declared, found, "inputs")
    return tuple(_narrowed(spec, declared) for spec in found)


def open_session(file: Path, where: Path | None = None) -> ort.InferenceSession:
    """The file as onnxruntime reads it. Raises BadInput that names the cause."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        what, remedy = why_refused(str(error))
        raise BadInput(what, where=str(where or file), remedy=remedy) from error


def why_refused(error: str) -> tuple[str, str]:
    """What onnxruntime has against a file, in one sentence, and what to do."""
    version = re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", error)
    if version:
        return (
            f"has ONNX's IR version {version.group(1)}; onnxruntime {ort.__version__} here reads {version.group(2)} at most",
            f"export it with ir_version {version.group(2)}, or install a newer onnxruntime",
        )
    opset = re.search(r"Opset (\d+) is under development.*?till opset (\d+)", error, re.DOTALL)
    if opset:
        return (
            f"uses opset {opset.group(1)}; onnxruntime {ort.__version__} here knows {opset.group(2)} at most",
            f"export it with opset {opset.group(2)} or lower, or install a newer onnxruntime",
        )
    operator = re.search(r"([\w.]*:?\w+)\(-?\d+\) is not a registered function/op", error)
    if operator:
        return (
            f"uses the operator {operator.group(1).replace(':', '.')}, which onnxruntime does not have",
            "export it with standard operators: those of a library of its own can't be served",
        )
    first = error.strip().split("\n", 1)[0]
    return f"onnxruntime refuses it: {first}", "check that the file is whole"


def _rows_first(item: ort.NodeArg, axis: int) -> ort.NodeArg | _Turned:
    if not axis:
        return item
    others = [one for place, one in enumerate(item.shape) if place != axis]
    return _Turned(item.name, item.type, [item.shape[axis], *others])


def _narrowed(spec: TensorSpec, declared: Sequence[InputSpec]) -> TensorSpec:
    said = next((one for one in declared if one.name == spec.name), None)
    if said is None:
        return spec
    axes = (mine if own < 0 else own for own, mine in zip(spec.shape, said.shape, strict=True))
    return spec.model_copy(update={"shape": tuple(axes)})


def _input(item: ort.NodeArg, others: Sequence[ort.NodeArg], file: Path) -> TensorSpec:
    datatype = DATATYPES.get(item.type)
    if datatype is None:
        raise BadInput(
            f"input {item.name} is {item.type}, which can't be served", where=str(file), remedy="export it with tensors"
        )
    if not item.shape or item.shape == [1]:
        raise BadInput(
            f"input {item.name} is one value for all rows",
            where=str(file),
            remedy=f"make it a constant of the version: constants: {{{item.name}: VALUE}}",
        )
    if isinstance(item.shape[0], int):
        raise BadInput(_fixed(item, others), where=str(file), remedy="export it with a first axis that is free, one row each")
    return _spec(item, datatype)


def _output(item: ort.NodeArg, others: Sequence[ort.NodeArg], file: Path) -> TensorSpec:
    datatype = DATATYPES.get(item.type)
    good = [one.name for one in others if one.type in DATATYPES and one.shape and not isinstance(one.shape[0], int)]
    leave_out = f"leave it out: outputs: [{', '.join(good)}]" if good else ""
    if datatype is None:
        maps = item.type.startswith("seq(map(")
        what = "a sequence of maps" if maps else item.type
        remedy = "convert the model with options={'zipmap': False}" if maps else "export it with plain tensors"
        raise BadInput(
            f"output {item.name} is {what}, which can't be served",
            where=str(file),
            remedy=f"{leave_out}, or {remedy}" if leave_out else remedy,
        )
    if not item.shape:
        raise BadInput(
            f"output {item.name} is one value for all rows",
            where=str(file),
            remedy=leave_out or "export it with a value for each row",
        )
    if isinstance(item.shape[0], int):
        fixed = "export it with a first axis that is free, one row each"
        raise BadInput(_fixed(item, others), where=str(file), remedy=f"{leave_out}, or {fixed}" if leave_out else fixed)
    return _spec(item, datatype)


def _fixed(item: ort.NodeArg, others: Sequence[ort.NodeArg]) -> str:
    """In words: a batch can only lie along the first axis, and here it is a number."""
    shape = "[" + ", ".join(str(axis) for axis in item.shape) + "]"
    free = {axis for one in others for axis in one.shape[:1] if isinstance(axis, str)}
    moved = next((place for place, axis in enumerate(item.shape) if place and axis in free), None)
    if moved is not None:
        return f"tensor {item.name} {shape} has its rows along axis {moved}, and they must lie along the first"
    if item.shape[0] == 1 or all(one.shape[:1] == item.shape[:1] for one in others):
        return f"tensor {item.name} {shape} has a fixed batch of {item.shape[0]}"
    return f"tensor {item.name} {shape} has a first axis of {item.shape[0]}, which is no batch"


def _spec(item: ort.NodeArg, datatype: Datatype) -> TensorSpec:
    return TensorSpec(
        name=item.name, datatype=datatype, shape=(-1, *(axis if isinstance(axis, int) else -1 for axis in item.shape[1:]))
    )


def run_rows(engine: Engine, inputs: Mapping[str, Array], batch: int = BATCH) -> dict[str, Array]:
    """Scores all rows, `batch` at a time. Raises EngineFailure."""
    count = len(next(iter(inputs.values())))
    parts = [engine.score({name: value[i : i + batch] for name, value in inputs.items()}) for i in range(0, count, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def fits(said: TensorSpec, own: TensorSpec) -> bool:
    """Whether datatype and shape as said are those of the model, where free axes are any length."""
    return (
        own.datatype is said.datatype
        and len(own.shape) == len(said.shape)
        and all(-1 in (a, b) or a == b for a, b in zip(own.shape, said.shape, strict=True))
    )


def check_inputs(declared: Sequence[TensorSpec], found: Sequence[TensorSpec], where: str) -> None:
    """Raises BadInput where the document lists inputs that the model does not have, saying which."""
    for spec in declared:
        own = next((item for item in found if item.name == spec.name), None)
        if own is None:
            raise BadInput(
                f"the model has no input {spec.name}; it has {', '.join(item.name for item in found)}",
                where=where,
                remedy="rename it",
            )
        if not fits(spec, own):
            raise BadInput(
                f"input {spec.name} is {own.datatype} {list(own.shape)}, not {spec.datatype} {list(spec.shape)} as said",
                where=where,
                remedy="correct the document",
            )
