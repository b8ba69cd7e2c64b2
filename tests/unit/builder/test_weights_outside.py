"""What a build leaves beside a large graph is what onnxruntime takes from memory; the rest goes into the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from deployments.builder.sources.external_data import SMALL_NUMBERS, keep_outside
from deployments.engines.onnx_external import LocatedWeights, located_weights

LARGE = SMALL_NUMBERS + 1


def external(name: str, numbers: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[numbers], raw_data=b"\0")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset=0, length=4 * numbers)
    tensor.ClearField("raw_data")
    return tensor


def test_weights_inside_nodes_are_taken_in_however_large_they_are(tmp_path: Path) -> None:
    values = np.arange(LARGE, dtype=np.float32)
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "weights.bin").write_bytes(values.tobytes())
    inside = onnx.helper.make_graph([], "inside", [], [], [external("inner", LARGE)])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inside, else_branch=inside)
    graph = onnx.helper.make_graph([node], "outer", [], [], [external("large", LARGE), external("small", 2)])
    model = onnx.helper.make_model(graph)

    keep_outside(model, tmp_path / "given", tmp_path / "model.onnx")

    assert located_weights(model.SerializeToString()) == {LocatedWeights("model.onnx.data", from_memory=True)}
    assert (tmp_path / "model.onnx.data").read_bytes() == values.tobytes()
    large, small = model.graph.initializer
    assert large.data_location == onnx.TensorProto.EXTERNAL
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(small), values[:2])
    for attribute in model.graph.node[0].attribute:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(attribute.g.initializer[0]), values)
