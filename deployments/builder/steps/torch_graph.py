"""An ONNX graph as a torch module whose constants can be trained: what fine-tuning after pruning needs. Runs in workers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional as fn

from cluster.errors import BadInput

Values = list[Any]
Attributes = Mapping[str, Any]


class TorchGraph(nn.Module):
    """Computes the graph's first output. Float constants of two and more axes, and the biases beside them, are parameters."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Raises BadInput that names an operator that can't be trained."""
        super().__init__()
        self._nodes = [
            (node, {item.name: helper.get_attribute_value(item) for item in node.attribute}) for node in model.graph.node
        ]
        unknown = sorted({node.op_type for node, _ in self._nodes} - set(OPERATORS) - {"Constant"})
        if unknown:
            raise BadInput(
                f"can't fine-tune a graph with {', '.join(unknown)}", where="compress.prune", remedy="set finetune: null"
            )
        self._inputs = [item.name for item in model.graph.input]
        self._output = model.graph.output[0].name
        self._constants: dict[str, torch.Tensor] = {}
        self._names: dict[str, str] = {}
        for item in model.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(item).copy())
            if value.is_floating_point() and value.ndim > 0:
                self._names[item.name] = f"p{len(self._names)}"
                self.register_parameter(self._names[item.name], nn.Parameter(value))
            else:
                self._constants[item.name] = value
        for node, attributes in self._nodes:
            if node.op_type == "Constant":
                self._constants[node.output[0]] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())

    @property
    def gives_probabilities(self) -> bool:
        """Whether the output comes straight from a softmax, so that `logits` are what it is computed from."""
        return any(node.op_type == "Softmax" and self._output in node.output for node, _ in self._nodes)

    def logits(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The output, or what its softmax is computed from."""
        wanted = self._output
        if self.gives_probabilities:
            wanted = next(node.input[0] for node, _ in self._nodes if self._output in node.output)
        return self._run(tensors, wanted)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The first output for a batch."""
        return self._run(tensors, self._output)

    def _run(self, tensors: tuple[torch.Tensor, ...], wanted: str) -> torch.Tensor:
        known: dict[str, Any] = dict(zip(self._inputs, tensors, strict=True)) | self._constants
        known |= {name: self.get_parameter(own) for name, own in self._names.items()}
        for node, attributes in self._nodes:
            if node.op_type != "Constant":
                known[node.output[0]] = OPERATORS[node.op_type](
                    [known[name] if name else None for name in node.input], attributes
                )
            if node.output[0] == wanted:
                break
        found: torch.Tensor = known[wanted]
        return found

    def write_to(self, model: onnx.ModelProto) -> None:
        """Puts the trained constants into the graph."""
        for item in model.graph.initializer:
            if item.name in self._names:
                value = self.get_parameter(self._names[item.name]).detach().numpy()
                item.CopyFrom(numpy_helper.from_array(value, item.name))


def _gemm(x: Values, a: Attributes) -> torch.Tensor:
    left = x[0].T if a.get("transA") else x[0]
    right = x[1].T if a.get("transB") else x[1]
    product: torch.Tensor = left @ right * a.get("alpha", 1.0)
    if len(x) > 2 and x[2] is not None:
        product = product + x[2] * a.get("beta", 1.0)
    return product


def _conv(x: Values, a: Attributes) -> torch.Tensor:
    axes = x[0].ndim - 2
    run = {1: fn.conv1d, 2: fn.conv2d, 3: fn.conv3d}[axes]
    padded, bias = _padded(x[0], a, 0.0), x[2] if len(x) > 2 else None
    out: torch.Tensor = run(
        padded, x[1], bias, a.get("strides", [1] * axes), 0, a.get("dilations", [1] * axes), a.get("group", 1)
    )
    return out


def _padded(x: torch.Tensor, a: Attributes, value: float) -> torch.Tensor:
    axes = x.ndim - 2
    pads = list(a.get("pads", [0] * 2 * axes))
    if a.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = _same_pads(x, a, a["auto_pad"] == b"SAME_UPPER")
    torch_order = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axis + axes])]
    return fn.pad(x, torch_order, value=value) if any(torch_order) else x


def _same_pads(x: torch.Tensor, a: Attributes, upper: bool) -> list[int]:
    begin, end = [], []
    for axis, kernel in enumerate(a["kernel_shape"]):
        stride = a.get("strides", [1] * len(a["kernel_shape"]))[axis]
        size = x.shape[axis + 2]
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        small, large = total // 2, total - total // 2
        begin.append(small if upper else large)
        end.append(large if upper else small)
    return begin + end


def _max_pool(x: Values, a: Attributes) -> torch.Tensor:
    run = {1: fn.max_pool1d, 2: fn.max_pool2d}[x[0].ndim - 2]
    out: torch.Tensor = run(
        _padded(x[0], a, float("-inf")), a["kernel_shape"], a.get("strides", 1), ceil_mode=bool(a.get("ceil_mode", 0))
    )
    return out


def _average_pool(x: Values, a: Attributes) -> torch.Tensor:
    if any(a.get("pads", [])) or a.get("ceil_mode", 0):
        raise BadInput("can't fine-tune an AveragePool with padding", where="compress.prune", remedy="set finetune: null")
    run = {1: fn.avg_pool1d, 2: fn.avg_pool2d}[x[0].ndim - 2]
    out: torch.Tensor = run(x[0], a["kernel_shape"], a.get("strides", [1] * len(a["kernel_shape"])))
    return out


def _reshape(x: Values, _: Attributes) -> torch.Tensor:
    shape = [x[0].shape[i] if size == 0 else size for i, size in enumerate(x[1].tolist())]
    out: torch.Tensor = x[0].reshape(shape)
    return out


def _reduce_mean(x: Values, a: Attributes) -> torch.Tensor:
    axes = x[1].tolist() if len(x) > 1 else list(a["axes"])
    out: torch.Tensor = x[0].mean(dim=axes, keepdim=bool(a.get("keepdims", 1)))
    return out


def _clip(x: Values, _: Attributes) -> torch.Tensor:
    return torch.clamp(x[0], x[1] if len(x) > 1 else None, x[2] if len(x) > 2 else None)


OPERATORS: dict[str, Callable[[Values, Attributes], torch.Tensor]] = {
    "Add": lambda x, _: x[0] + x[1],
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Conv": _conv,
    "Div": lambda x, _: x[0] / x[1],
    "Dropout": lambda x, _: x[0],
    "Elu": lambda x, a: fn.elu(x[0], a.get("alpha", 1.0)),
    "Flatten": lambda x, a: x[0].flatten(a.get("axis", 1)),
    "Gelu": lambda x, _: fn.gelu(x[0]),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, _: x[0].mean(dim=tuple(range(2, x[0].ndim)), keepdim=True),
    "Identity": lambda x, _: x[0],
    "LeakyRelu": lambda x, a: fn.leaky_relu(x[0], a.get("alpha", 0.01)),
    "LogSoftmax": lambda x, a: fn.log_softmax(x[0], a.get("axis", -1)),
    "MatMul": lambda x, _: x[0] @ x[1],
    "MaxPool": _max_pool,
    "Mul": lambda x, _: x[0] * x[1],
    "ReduceMean": _reduce_mean,
    "Relu": lambda x, _: fn.relu(x[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda x, _: torch.sigmoid(x[0]),
    "Softmax": lambda x, a: fn.softmax(x[0], a.get("axis", -1)),
    "Squeeze": lambda x, _: x[0].squeeze(tuple(x[1].tolist())),
    "Sub": lambda x, _: x[0] - x[1],
    "Tanh": lambda x, _: torch.tanh(x[0]),
    "Transpose": lambda x, a: x[0].permute(*a["perm"]),
    "Unsqueeze": lambda x, _: x[0].unsqueeze(x[1].tolist()[0]),
}
