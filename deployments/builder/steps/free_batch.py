"""Frees the batch axis of a graph that was written for one number of rows, where it works for any.

That it does is proven afterwards: the import's answers are compared with those of the file as it was given, in other batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from deployments.builder.steps.renaming import BATCH_AXIS
from deployments.engines.datatypes import Array


def free_inputs(model: onnx.ModelProto) -> int | None:
    """Frees the first axis of all inputs where it is the same number in each, and returns that number; else None.

    Outputs with as many rows are freed with them.
    """
    _free_negative(model)
    sizes = {_first_axis(item) for item in model.graph.input}
    size = next(iter(sizes)) if len(sizes) == 1 else None
    if size is None:
        return None
    for item in [*model.graph.input, *model.graph.output]:
        if _first_axis(item) == size:
            _free(item)
    # The shapes between were worked out for that number of rows.
    del model.graph.value_info[:]
    return size


def _free_negative(model: onnx.ModelProto) -> None:
    """Some converters write -1, which is no length, for an axis that is free."""
    for item in [*model.graph.input, *model.graph.output]:
        for place, axis in enumerate(item.type.tensor_type.shape.dim):
            if axis.HasField("dim_value") and axis.dim_value < 0:
                axis.dim_param = f"{item.name}_{place}" if place else BATCH_AXIS


def free_outputs(model: onnx.ModelProto, answers: Mapping[str, Array]) -> None:
    """Frees the first axis of outputs that are said to have one row, and had two for the two rows of `answers`: some converters
    write so. Those of which nothing is said get the axes seen, all of them free."""
    for item in model.graph.output:
        if item.name in answers and not item.type.tensor_type.HasField("shape"):
            for place in range(answers[item.name].ndim):
                item.type.tensor_type.shape.dim.add().dim_param = f"{item.name}_{place}" if place else BATCH_AXIS
        elif item.name in answers and _first_axis(item) == 1 and answers[item.name].ndim and len(answers[item.name]) == 2:
            _free(item)


def unservable(model: onnx.ModelProto) -> set[str]:
    """The outputs that are no tensors, or have no first axis."""
    return {item.name for item in model.graph.output if not _may_have_rows(item)}


def _may_have_rows(item: onnx.ValueInfoProto) -> bool:
    tensor = item.type.tensor_type
    return item.type.HasField("tensor_type") and (not tensor.HasField("shape") or len(tensor.shape.dim) > 0)


def _first_axis(item: onnx.ValueInfoProto) -> int | None:
    axes = item.type.tensor_type.shape.dim
    return int(axes[0].dim_value) if len(axes) > 0 and axes[0].HasField("dim_value") else None


def _free(item: onnx.ValueInfoProto) -> None:
    item.type.tensor_type.shape.dim[0].dim_param = BATCH_AXIS
