"""Dynamic int8 whose activations are scaled row by row.

onnxruntime's own takes one scale over the whole batch, so that a row beside an outlier is left with a few steps of its range and
may get another class than alone. Here each row's scale is its own, and its answer the same whatever else is in the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

# uint8 around this zero: the kernels for unsigned activations and signed weights are the fast ones.
ZERO, STEPS = 128, 127
# Below this a row counts as all zeros.
SMALLEST = 1e-30
AXES_ARE_AN_INPUT = 18


def scale_by_row(model: onnx.ModelProto) -> None:
    """Replaces, in place, every DynamicQuantizeLinear by operators with a scale for each vector along the last axis."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            nodes += _by_row(node, _opset(model))
        else:
            nodes.append(node)
    if len(nodes) == len(model.graph.node):
        return
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(_constants())
    # The scales had no axes before: their shapes are worked out anew.
    del model.graph.value_info[:]


def _by_row(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    source, (quantised, scale, zero) = node.input[0], node.output

    def name(part: str) -> str:
        return f"{quantised}_{part}"

    reduced = (
        helper.make_node("ReduceMax", [name("abs"), "row_scales.last_axis"], [name("largest")], keepdims=1)
        if opset >= AXES_ARE_AN_INPUT
        else helper.make_node("ReduceMax", [name("abs")], [name("largest")], axes=[-1], keepdims=1)
    )
    return [
        helper.make_node("Abs", [source], [name("abs")]),
        reduced,
        helper.make_node("Max", [name("largest"), "row_scales.smallest"], [name("range")]),
        helper.make_node("Div", [name("range"), "row_scales.steps"], [scale]),
        helper.make_node("Div", [source, scale], [name("scaled")]),
        helper.make_node("Round", [name("scaled")], [name("rounded")]),
        helper.make_node("Add", [name("rounded"), "row_scales.zero"], [name("shifted")]),
        helper.make_node("Cast", [name("shifted")], [quantised], to=TensorProto.UINT8),
        helper.make_node("Identity", ["row_scales.zero_point"], [zero]),
    ]


def _constants() -> list[onnx.TensorProto]:
    values: dict[str, npt.NDArray[Any]] = {
        "row_scales.last_axis": np.array([-1], np.int64),
        "row_scales.smallest": np.array(SMALLEST, np.float32),
        "row_scales.steps": np.array(STEPS, np.float32),
        "row_scales.zero": np.array(ZERO, np.float32),
        "row_scales.zero_point": np.array(ZERO, np.uint8),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _opset(model: onnx.ModelProto) -> int:
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
