"""Runs an ONNX file on rows, and reads from it the signature of the version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
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


def read_signature(file: Path) -> Signature:
    """What the ONNX file takes and gives. Raises BadInput where it is no model, or its batch axis is fixed."""
    try:
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        first = str(error).strip().split("\n", 1)[0]
        raise BadInput(f"onnxruntime refuses it: {first}", where=str(file), remedy="check that the file is whole") from error
    return Signature(
        inputs=tuple(_spec(item, file) for item in session.get_inputs()),
        outputs=tuple(_spec(item, file) for item in session.get_outputs()),
    )


def _spec(item: ort.NodeArg, file: Path) -> TensorSpec:
    datatype = DATATYPES.get(item.type)
    if datatype is None:
        raise BadInput(
            f"tensor {item.name} is {item.type}, which can't be served", where=str(file), remedy="export it with plain tensors"
        )
    if not item.shape:
        raise BadInput(f"tensor {item.name} has no batch axis", where=str(file), remedy="export it with the batch axis first")
    if isinstance(item.shape[0], int):
        raise BadInput(
            f"tensor {item.name} has a fixed batch of {item.shape[0]}",
            where=str(file),
            remedy="export it with a dynamic first axis",
        )
    return TensorSpec(
        name=item.name, datatype=datatype, shape=(-1, *(axis if isinstance(axis, int) else -1 for axis in item.shape[1:]))
    )


def run_rows(engine: Engine, inputs: Mapping[str, Array], batch: int = BATCH) -> dict[str, Array]:
    """Scores all rows, `batch` at a time. Raises EngineFailure."""
    count = len(next(iter(inputs.values())))
    parts = [engine.score({name: value[i : i + batch] for name, value in inputs.items()}) for i in range(0, count, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_inputs(declared: Sequence[TensorSpec], found: Signature, where: str) -> None:
    """Raises BadInput where the document lists inputs that the model does not have, saying which."""
    for spec in declared:
        own = found.input(spec.name)
        if own is None:
            raise BadInput(
                f"the model has no input {spec.name}; it has {', '.join(item.name for item in found.inputs)}",
                where=where,
                remedy="rename it",
            )
        fits = len(own.shape) == len(spec.shape) and all(
            -1 in (a, b) or a == b for a, b in zip(own.shape, spec.shape, strict=True)
        )
        if own.datatype is not spec.datatype or not fits:
            raise BadInput(
                f"input {spec.name} is {own.datatype} {list(own.shape)}, not {spec.datatype} {list(spec.shape)} as said",
                where=where,
                remedy="correct the document",
            )
