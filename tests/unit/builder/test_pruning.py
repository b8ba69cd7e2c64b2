from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cluster.errors import BadInput
from deployments.builder.steps.pruning import prune

Nodes = list[onnx.NodeProto]
Constants = dict[str, np.ndarray]


def model(nodes: Nodes, constants: Constants, shape: list[object], classes: int = 3) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


def dead(weights: np.ndarray, axis: int) -> np.ndarray:
    """Half of the channels get no weight at all: pruning half must change no answer."""
    count = weights.shape[axis]
    silent = np.random.default_rng(1).permutation(count)[: count // 2]
    weights = weights.copy()
    np.moveaxis(weights, axis, 0)[silent] = 0
    return weights


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def mlp() -> tuple[onnx.ModelProto, np.ndarray]:
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["s"]),
        helper.make_node("Add", ["s", "b2"], ["y"]),
    ]
    constants = {"w1": dead(weights(32, 6), 0), "b1": np.zeros(32, np.float32), "w2": weights(32, 3, seed=2), "b2": weights(3)}
    return model(nodes, constants, [6]), weights(5, 6, seed=3)


def cnn(channels_last: bool) -> tuple[onnx.ModelProto, np.ndarray]:
    nodes = [
        helper.make_node("Conv", ["x", "k1", "c1"], ["f"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("MaxPool", ["g"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["p"], ["t"], perm=[0, 2, 3, 1])
        if channels_last
        else helper.make_node("Identity", ["p"], ["t"]),
        helper.make_node("Reshape", ["t", "flat"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"]),
    ]
    constants = {
        "k1": dead(weights(32, 1, 3, 3), 0),
        "c1": np.zeros(32, np.float32),
        "flat": np.array([-1, 32 * 9], np.int64),
        "w": weights(32 * 9, 3, seed=2),
        "b": weights(3),
    }
    return model(nodes, constants, [1, 6, 6]), weights(4, 1, 6, 6, seed=3)


@pytest.mark.parametrize("make", [mlp, lambda: cnn(False), lambda: cnn(True)], ids=["mlp", "cnn", "channels-last"])
def test_silent_channels_go_and_the_answers_stay(make: object) -> None:
    proto, rows = make()
    before, size = run(proto, rows), proto.ByteSize()
    removed = prune(proto, 0.5)
    assert [tuple(counts) for counts in removed.values()] == [(32, 16)]
    np.testing.assert_allclose(run(proto, rows), before, atol=1e-4)
    assert proto.ByteSize() < 0.65 * size


def test_a_layer_that_something_else_reads_stays_whole() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"]),
        helper.make_node("ReduceSum", ["h", "one"], ["total"], keepdims=1),
        helper.make_node("Gemm", ["h", "w2"], ["s"]),
        helper.make_node("Add", ["s", "total"], ["y"]),
    ]
    proto = model(nodes, {"w1": weights(6, 32), "w2": weights(32, 3), "one": np.array([1], np.int64)}, [6])
    before = proto.SerializeToString()
    with pytest.raises(BadInput, match="no layer can be pruned"):
        prune(proto, 0.5)
    assert proto.SerializeToString() == before


def test_a_residual_connection_stays_whole() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"]),
        helper.make_node("Gemm", ["h", "w2"], ["i"]),
        helper.make_node("Add", ["h", "i"], ["j"]),
        helper.make_node("Gemm", ["j", "w3"], ["y"]),
    ]
    proto = model(nodes, {"w1": weights(6, 32), "w2": weights(32, 32), "w3": weights(32, 3)}, [6])
    with pytest.raises(BadInput, match="no layer can be pruned"):
        prune(proto, 0.5)
