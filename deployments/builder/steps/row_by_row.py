"""Any number of rows along the first axis, for graphs that take one row at a time, or have their rows along another axis.

The nodes of the first become the body of a Scan, which hands them one row after the other as a batch of one: no faster than the
graph is, but nobody has to export it again. The others' tensors are transposed. That the answers are the same is proven
afterwards, as for every import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deployments.builder.steps.renaming import BATCH_AXIS

# From this opset on Scan has no batch axis of its own, and Squeeze takes its axes as a tensor.
SCAN_OPSET, AXES_AS_INPUT_OPSET = 9, 13
BODY = "row:"


@dataclass(frozen=True, slots=True)
class RowTensor:
    """Where the rows of a tensor lie in the graph as it was given (None: it holds one row, and no axis for it), and the shape of
    one of them (-1: any length)."""

    axis: int | None
    shape: tuple[int, ...]


def row_axes(model: onnx.ModelProto) -> dict[str, int]:
    """The axis of each input that rows lie along: the first; or, beside inputs with a free first axis, another that is the only
    free one of its input, and of the same name where both have one."""
    shapes = {item.name: [_axis(one) for one in item.type.tensor_type.shape.dim] for item in inputs_of(model)}
    batches = {axes[0] for axes in shapes.values() if axes and not isinstance(axes[0], int)}
    found = {}
    for name, axes in shapes.items():
        free = [place for place, axis in enumerate(axes) if not isinstance(axis, int)]
        moved = axes and isinstance(axes[0], int) and len(free) == 1 and batches
        named = moved and axes[free[0]] and any(batches)
        found[name] = free[0] if moved and (not named or axes[free[0]] in batches) else 0
    return found


def rows_first(model: onnx.ModelProto, inputs: Mapping[str, RowTensor], outputs: Mapping[str, RowTensor]) -> None:
    """Turns the graph's inputs and outputs, in place, so that rows lie along the first axis of each."""
    moved = {name: row.axis for name, row in {**inputs, **outputs}.items() if row.axis}
    types = _types(model.graph)
    _rename(model.graph, {name: f"{BODY}{name}" for name in moved})
    before, after = [], []
    for name, axis in moved.items():
        others = range(1, len(({**inputs, **outputs})[name].shape) + 1)
        if name in inputs:
            perm = [*others[:axis], 0, *others[axis:]]
            before.append(helper.make_node("Transpose", [name], [f"{BODY}{name}"], perm=perm))
        else:
            perm = [axis, *(place for place in (0, *others) if place != axis)]
            after.append(helper.make_node("Transpose", [f"{BODY}{name}"], [name], perm=perm))
    nodes = [*before, *model.graph.node, *after]
    held = list(model.graph.initializer)
    whole = helper.make_graph(nodes, model.graph.name, _values(inputs, types), _values(outputs, types), held)
    whole.sparse_initializer.extend(model.graph.sparse_initializer)
    model.graph.CopyFrom(whole)


def row_by_row(
    model: onnx.ModelProto, inputs: Mapping[str, RowTensor], outputs: Mapping[str, RowTensor]
) -> onnx.ModelProto | None:
    """The model over any number of rows along the first axis of all its inputs and outputs; None where its opset has no Scan."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < SCAN_OPSET:
        return None
    body = onnx.GraphProto()
    body.CopyFrom(model.graph)
    types = _types(body)
    _rename(body, {name: f"{BODY}{name}" for name in [*inputs, *outputs]})
    del body.value_info[:], body.input[:], body.output[:]
    before, after = [], []
    for name, row in inputs.items():
        body.input.append(helper.make_tensor_value_info(f"{BODY}{name}:in", types[name], _dims(name, row.shape)))
        before += _shift("Unsqueeze", f"{BODY}{name}:in", f"{BODY}{name}", row.axis, opset, body)
    for name, row in outputs.items():
        body.output.append(helper.make_tensor_value_info(f"{BODY}{name}:out", types[name], _dims(name, row.shape)))
        after += _shift("Squeeze", f"{BODY}{name}", f"{BODY}{name}:out", row.axis, opset, body)
    nodes = [*before, *body.node, *after]
    del body.node[:]
    body.node.extend(nodes)
    scan = helper.make_node("Scan", list(inputs), list(outputs), body=body, num_scan_inputs=len(inputs))
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.CopyFrom(helper.make_graph([scan], model.graph.name, _values(inputs, types), _values(outputs, types)))
    return whole


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Without weights, which files of old list among the inputs."""
    held = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in held]


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    return {item.name: item.type.tensor_type.elem_type for item in [*graph.input, *graph.output]}


def moved_axis(few: tuple[int, ...], more: tuple[int, ...]) -> int | None:
    """Which axis grew with the rows."""
    grown = [place for place, (one, other) in enumerate(zip(few, more, strict=True)) if one != other]
    return grown[0] if len(grown) == 1 else None


def _values(tensors: Mapping[str, RowTensor], types: Mapping[str, int]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, types[name], [BATCH_AXIS, *_dims(name, row.shape)]) for name, row in tensors.items()
    ]


def _dims(name: str, shape: Sequence[int]) -> list[int | str]:
    return [axis if axis >= 0 else f"{name}_{place + 1}" for place, axis in enumerate(shape)]


def _axis(axis: onnx.TensorShapeProto.Dimension) -> int | str:
    return int(axis.dim_value) if axis.HasField("dim_value") else str(axis.dim_param)


def _shift(operator: str, source: str, target: str, axis: int | None, opset: int, body: onnx.GraphProto) -> list[onnx.NodeProto]:
    if axis is None:
        return [helper.make_node("Identity", [source], [target])]
    if opset < AXES_AS_INPUT_OPSET:
        return [helper.make_node(operator, [source], [target], axes=[axis])]
    body.initializer.append(numpy_helper.from_array(np.array([axis]), f"{target}:axis"))
    return [helper.make_node(operator, [source, f"{target}:axis"], [target])]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Also in what its branches and loops take from around them: a body may name nothing as the graph around it does."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            for place, name in enumerate(tensors):
                tensors[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, names)
    for item in [*graph.input, *graph.output]:
        item.name = names.get(item.name, item.name)
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
