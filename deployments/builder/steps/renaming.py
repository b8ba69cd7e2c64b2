"""Gives an ONNX graph's inputs, outputs and batch axis the names that the document asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

BATCH_AXIS = "batch"


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Renames tensors in place, old to new, and calls each free first axis `batch`."""
    graph = model.graph
    for node in graph.node:
        for tensors in (node.input, node.output):
            for i, name in enumerate(tensors):
                tensors[i] = names.get(name, name)
    for item in [*graph.input, *graph.output, *graph.value_info]:
        item.name = names.get(item.name, item.name)
    for item in [*graph.input, *graph.output]:
        axes = item.type.tensor_type.shape.dim
        if axes and not axes[0].HasField("dim_value"):
            axes[0].dim_param = BATCH_AXIS


def keep_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Leaves these outputs, in that order."""
    by_name = {item.name: item for item in model.graph.output}
    kept = [by_name[name] for name in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
