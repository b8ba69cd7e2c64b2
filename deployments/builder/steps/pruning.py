"""Structured pruning of an ONNX graph: whole neurons and channels go, so that the model is smaller and faster.

A layer can be pruned where its output reaches nothing but other layers' inputs, by way of operators that treat each channel
alone. Weakest first: the norm of a channel's own weights times the norm of the weights that read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from cluster.errors import BadInput

Weights = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

LAYERS = {"Gemm", "MatMul", "Conv"}
UNARY = {
    "Relu",
    "Sigmoid",
    "Tanh",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Softplus",
    "HardSwish",
    "HardSigmoid",
    "Gelu",
    "Identity",
    "Dropout",
    "Clip",
}
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
# Kernels work on whole vectors: a count that fills them costs nothing more.
VECTOR = 8


@dataclass(slots=True)
class ConstantSlice:
    """A constant that shrinks along `axis`; `positions[c]` are the indices that belong to channel c."""

    constant: str
    axis: int
    positions: Positions


@dataclass(slots=True)
class Reshape:
    """The constant shape of a Reshape whose last axis shrinks, and that axis' `positions`."""

    constant: str
    positions: Positions


@dataclass(slots=True)
class Channels:
    """Everything that one layer's output channels touch."""

    layer: str
    own: list[ConstantSlice]
    readers: list[ConstantSlice] = field(default_factory=list)
    shapes: list[Reshape] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many channels there are."""
        return len(self.own[0].positions)


def prune(model: onnx.ModelProto, share: float) -> dict[str, tuple[int, int]]:
    """Removes `share` of the channels of every layer that allows it, in place; returns channels before and after by layer.

    Raises BadInput where no layer allows it.
    """
    graph = _Graph(model)
    groups = [group for node in model.graph.node if (group := graph.channels(node))]
    removed: dict[str, tuple[int, int]] = {}
    for group in groups:
        keep = _strongest(graph, group, share)
        if len(keep) < group.count:
            removed[group.layer] = (group.count, len(keep))
            graph.keep(group, keep)
    if not removed:
        raise BadInput("no layer can be pruned", where="compress.prune", remedy="layers need a plain path to the next layer")
    graph.write()
    return removed


def _strongest(graph: _Graph, group: Channels, share: float) -> Positions:
    count = group.count
    wanted = max(1, round(count * (1 - share)))
    if count > 2 * VECTOR:
        wanted = min(count, -(-wanted // VECTOR) * VECTOR)
    strength = _norms(graph, group.own[:1]) * _norms(graph, group.readers)
    return np.sort(np.argsort(-strength, kind="stable")[:wanted])


def _norms(graph: _Graph, slices: list[ConstantSlice]) -> npt.NDArray[np.float64]:
    total = np.zeros(len(slices[0].positions))
    for item in slices:
        weights = np.moveaxis(graph.constants[item.constant], item.axis, 0).astype(np.float64)
        total += (weights[item.positions].reshape(len(item.positions), -1) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(total))


class _Graph:
    """One ONNX graph with its constants as arrays and a way from a tensor to its readers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.constants: dict[str, Any] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._uses = {name: len(nodes) for name, nodes in self._readers.items()}
        self._outputs = {item.name for item in model.graph.output}
        inferred = shape_inference.infer_shapes(model).graph
        self._shapes = {
            item.name: [axis.dim_value or -1 for axis in item.type.tensor_type.shape.dim]
            for item in [*inferred.value_info, *inferred.input, *inferred.output]
        }

    def channels(self, node: onnx.NodeProto) -> Channels | None:
        """What the node's output channels touch; None where they can't be removed."""
        weight = self._weight(node)
        if weight is None:
            return None
        name, axis = weight
        if node.op_type == "Conv":
            axis, out_axis, bias = 0, 1, node.input[2:3]
        else:
            axis, out_axis, bias = (0 if _attribute(node, "transB", 0) else 1), 1, node.input[2:3]
        each = np.arange(self.constants[name].shape[axis]).reshape(-1, 1)
        group = Channels(node.name or node.output[0], [ConstantSlice(name, axis, each)])
        for item in bias:
            if item not in self.constants or self._uses[item] > 1:
                return None
            if self.constants[item].ndim != 1:
                return None
            group.own.append(ConstantSlice(item, 0, each))
        rank = len(self._shapes.get(node.output[0], [])) or (4 if node.op_type == "Conv" else 2)
        if node.op_type != "Conv" and rank != 2:
            return None
        return group if self._follow(node.output[0], out_axis, each, group) and group.readers else None

    def _weight(self, node: onnx.NodeProto) -> tuple[str, int] | None:
        """The layer's weights, where they are a constant that nothing else reads."""
        if node.op_type not in LAYERS or len(node.input) < 2:
            return None
        name = node.input[1]
        if (
            name not in self.constants
            or self._uses[name] > 1
            or _attribute(node, "group", 1) != 1
            or _attribute(node, "transA", 0)
        ):
            return None
        if node.op_type == "MatMul" and self.constants[name].ndim != 2:
            return None
        return name, 1

    def _follow(self, tensor: str, axis: int, positions: Positions, group: Channels) -> bool:
        """Walks to the readers of `tensor`, whose channels lie at `positions` of `axis`. False where one forbids pruning."""
        if tensor in self._outputs:
            return False
        return all(self._step(node, tensor, axis, positions, group) for node in self._readers.get(tensor, []))

    def _step(self, node: onnx.NodeProto, tensor: str, axis: int, positions: Positions, group: Channels) -> bool:
        kind, after = node.op_type, node.output[0]
        if kind in LAYERS:
            return self._read(node, tensor, axis, positions, group)
        if kind in UNARY or (kind in POOLS and axis == 1):
            return self._follow(after, axis, positions, group)
        if kind == "Transpose":
            order = list(_attribute(node, "perm", []))
            return bool(order) and self._follow(after, order.index(axis), positions, group)
        if kind == "ReduceMean":
            return self._reduce(node, axis) and self._follow(after, axis, positions, group)
        if kind in ("Add", "Mul") and self._beside(node, tensor, axis, positions, group):
            return self._follow(after, axis, positions, group)
        if kind in ("Flatten", "Reshape"):
            return self._flatten(node, tensor, axis, positions, group)
        return False

    def _read(self, node: onnx.NodeProto, tensor: str, axis: int, positions: Positions, group: Channels) -> bool:
        """The channels end here: the reader's weights shrink along their input axis."""
        weight = self._weight(node)
        if weight is None or axis != 1 or node.input[0] != tensor:
            return False
        name = weight[0]
        inner = 1 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 0
        group.readers.append(ConstantSlice(name, inner, positions))
        return True

    def _beside(self, node: onnx.NodeProto, tensor: str, axis: int, positions: Positions, group: Channels) -> bool:
        """A constant added to, or multiplied with, each channel shrinks too."""
        other = node.input[1] if node.input[0] == tensor else node.input[0]
        rank = len(self._shapes.get(tensor, []))
        if other not in self.constants or not rank:
            return False
        value = self.constants[other]
        own_axis = axis - (rank - value.ndim)
        if own_axis < 0 or value.shape[own_axis] == 1:
            return True
        if self._uses[other] > 1 or value.shape[own_axis] != positions.size:
            return False
        group.own.append(ConstantSlice(other, own_axis, positions))
        return True

    def _reduce(self, node: onnx.NodeProto, axis: int) -> bool:
        """Whether a mean leaves the channel axis in its place."""
        axes = _attribute(node, "axes", None)
        if axes is None and len(node.input) > 1 and node.input[1] in self.constants:
            axes = self.constants[node.input[1]].tolist()
        rank = len(self._shapes.get(node.input[0], []))
        return bool(axes) and bool(rank) and all((item + rank) % rank > axis for item in axes)

    def _flatten(self, node: onnx.NodeProto, tensor: str, axis: int, positions: Positions, group: Channels) -> bool:
        """[n, ..., channels, ...] to [n, features]: each channel becomes the features that it holds."""
        before, after = self._shapes.get(tensor, []), self._shapes.get(node.output[0], [])
        if len(before) < 2 or len(after) != 2 or any(size < 1 for size in before[1:]) or positions.shape[1] != 1:
            return False
        features = np.arange(int(np.prod(before[1:]))).reshape(before[1:])
        moved = np.moveaxis(features, axis - 1, 0).reshape(before[axis], -1)
        if node.op_type == "Reshape":
            shape = node.input[1]
            if shape not in self.constants or self._uses[shape] > 1 or self.constants[shape].size != 2:
                return False
            group.shapes.append(Reshape(shape, moved))
        return self._follow(node.output[0], 1, moved, group)

    def keep(self, group: Channels, channels: Positions) -> None:
        """Keeps these channels of the group only."""
        for item in [*group.own, *group.readers]:
            kept = np.sort(item.positions[channels].ravel())
            self.constants[item.constant] = np.ascontiguousarray(np.take(self.constants[item.constant], kept, axis=item.axis))
        for shape in group.shapes:
            value = self.constants[shape.constant].copy()
            if value[1] > 0:
                value[1] = shape.positions[channels].size
                self.constants[shape.constant] = value

    def write(self) -> None:
        """Puts the constants back, and forgets the shapes between, which no longer hold."""
        graph = self._model.graph
        del graph.initializer[:]
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.constants.items())
        del graph.value_info[:]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
