"""An ONNX file's inputs and outputs, as its graph says them."""

from __future__ import annotations

from pathlib import Path

import google.protobuf.message
import onnx

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.looking.seen import Seen, SeenInput
from deployments.builder.steps.free_batch import free_inputs, unservable

ELEMENTS: dict[int, Datatype] = {
    onnx.TensorProto.BOOL: Datatype.BOOL,
    onnx.TensorProto.UINT8: Datatype.UINT8,
    onnx.TensorProto.UINT16: Datatype.UINT16,
    onnx.TensorProto.UINT32: Datatype.UINT32,
    onnx.TensorProto.UINT64: Datatype.UINT64,
    onnx.TensorProto.INT8: Datatype.INT8,
    onnx.TensorProto.INT16: Datatype.INT16,
    onnx.TensorProto.INT32: Datatype.INT32,
    onnx.TensorProto.INT64: Datatype.INT64,
    onnx.TensorProto.FLOAT16: Datatype.FP16,
    onnx.TensorProto.FLOAT: Datatype.FP32,
    onnx.TensorProto.DOUBLE: Datatype.FP64,
    onnx.TensorProto.STRING: Datatype.BYTES,
}
ANY_LENGTH = "an axis of any length (-1): put its length where it has one, trial rows are then as long"


def look_onnx(file: Path) -> Seen:
    """Raises BadInput where it is damaged, or an input can't be served."""
    try:
        model = onnx.load(file, load_external_data=False)
    except (google.protobuf.message.DecodeError, OSError, ValueError) as error:
        raise BadInput("is no whole ONNX model", where=str(file), remedy="export it again") from error
    graph = model.graph
    if not graph.input or not graph.output:
        raise BadInput("has no inputs or no outputs", where=str(file), remedy="export it again")
    made = {item.name for item in graph.initializer}
    given = [item for item in graph.input if item.name not in made]
    scalars = tuple(item.name for item in given if item.type.HasField("tensor_type") and not item.type.tensor_type.shape.dim)
    del graph.input[:]
    graph.input.extend(item for item in given if item.name not in scalars)
    fixed = free_inputs(model)
    left_out = [item.name for item in graph.output if item.name in unservable(model)]
    notes = [f"Left out, since they are no tensors with a row each: {', '.join(left_out)}."] if left_out else []
    if fixed is not None:
        notes.append(f"It was exported for {fixed} rows at a time; the build frees that axis where the graph allows it.")
    return Seen(
        inputs=tuple(_input(item, file) for item in graph.input),
        outputs=tuple(item.name for item in graph.output if item.name not in left_out),
        constants=scalars,
        notes=tuple(notes),
    )


def _input(item: onnx.ValueInfoProto, file: Path) -> SeenInput:
    tensor = item.type.tensor_type
    datatype = ELEMENTS.get(tensor.elem_type)
    if not item.type.HasField("tensor_type") or datatype is None:
        raise BadInput(f"input {item.name} is no tensor that can be served", where=str(file), remedy="export it with tensors")
    axes = [axis.dim_value if axis.HasField("dim_value") and axis.dim_value >= 0 else -1 for axis in tensor.shape.dim]
    return SeenInput(
        spec=TensorSpec(name=item.name, datatype=datatype, shape=(-1, *axes[1:])),
        unsure=ANY_LENGTH if -1 in axes[1:] else "",
    )
