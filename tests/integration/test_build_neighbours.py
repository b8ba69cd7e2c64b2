"""Models whose rows depend on each other are refused in words that say so; int8 scaled by row is not one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from cluster.errors import BadInput
from deployments.builder.evaluation.neighbours import neighbours
from deployments.builder.report import IMPORTED
from deployments.engines.load import load_engine, open_engine
from tests.support.builds import answer, run

pytestmark = pytest.mark.usefixtures("builds_here")
MODULE = """
import torch
from torch import nn
from torch.nn import functional

class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return functional.dropout(x, 0.5) * self.scale

class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]
"""


def write(
    folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], width: int, out: int, opset: int = 17
) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", out])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def matmul(folder: Path, opset: int = 17) -> Path:
    """y = x W, 64 inputs and 10 classes."""
    weights = np.random.default_rng(0).normal(0, 1, (64, 10)).astype(np.float32)
    return write(folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, 64, 10, opset)


def rows(folder: Path) -> np.ndarray:
    """700 rows, the last of them an outlier."""
    x = np.random.default_rng(1).normal(0, 1, (700, 64)).astype(np.float32)
    x[-1] *= 500
    np.savez(folder / "rows.npz", x=x)
    return x


def test_int8_scaled_by_row_is_built_loads_and_keeps_a_rows_class_beside_an_outlier(tmp_path: Path) -> None:
    matmul(tmp_path)
    x = rows(tmp_path)
    section = {"source": {"onnx": "m.onnx"}, "evaluate": {"data": "rows.npz"}, "compress": "int8-dynamic"}
    built = run(tmp_path, section)
    assert built.artifact is not None, built.broken
    assert built.report.chosen == "int8-dynamic"
    engine = load_engine(Path(built.artifact.uri))  # it replays its own rows
    operators = {node.op_type for node in onnx.load(Path(built.artifact.uri) / "model.onnx").graph.node}
    assert "MatMulInteger" in operators
    assert "DynamicQuantizeLinear" not in operators
    beside = engine.score({"x": x})["y"][:20]
    alone = np.concatenate([engine.score({"x": x[i : i + 1]})["y"] for i in range(20)])
    np.testing.assert_allclose(alone, beside, atol=1e-5)
    exact = engine.score({"x": x})["y"].argmax(1) == (x @ weights_of(tmp_path)).argmax(1)
    assert exact.mean() > 0.98


def weights_of(folder: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load(folder / "m.onnx").graph.initializer[0])


def test_a_file_of_quantize_dynamic_is_refused_in_words(tmp_path: Path) -> None:
    quantize_dynamic(matmul(tmp_path), tmp_path / "q.onnx", weight_type=QuantType.QInt8)
    rows(tmp_path)
    section: dict[str, Any] = {"source": {"onnx": "q.onnx"}, "evaluate": {"data": "rows.npz"}, "optimise": False}
    built = run(tmp_path, section)
    assert built.artifact is None
    assert "its rows are not independent" in built.broken[0]
    found = built.report.variant(IMPORTED).neighbours
    assert found is not None
    assert found.changed > 0
    allowed = run(tmp_path, {**section, "gate": {"max_neighbour_changes": None}})
    assert allowed.artifact is not None
    load_engine(Path(allowed.artifact.uri))  # samples were recorded as they are replayed


def test_samples_are_recorded_as_they_are_replayed(tmp_path: Path) -> None:
    """A scale over the batch, recorded among 256 rows and replayed among 8, was a version that never loads."""
    scale = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Div", ["x", "top"], ["y"]),
    ]
    write(tmp_path, scale, {}, 2, 2)
    np.savez(tmp_path / "rows.npz", x=np.arange(1, 601, dtype=np.float32).reshape(300, 2))
    section = {"source": {"onnx": "m.onnx"}, "evaluate": {"data": "rows.npz"}, "gate": {"max_neighbour_changes": None}}
    built = run(tmp_path, section)
    assert answer(built, x=[[1.0, 2.0]])["y"].tolist() == [[0.5, 1.0]]


def test_a_sum_over_the_batch_axis_is_refused_in_words(tmp_path: Path) -> None:
    write(tmp_path, [helper.make_node("CumSum", ["x", "axis"], ["y"])], {"axis": np.array(0, np.int64)}, 3, 3)
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}})
    assert built.artifact is None
    assert "its rows are not independent" in built.broken[0]


def test_batch_and_time_swapped_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "user_lstm.py").write_text(MODULE)
    torch.manual_seed(0)
    torch.save(torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4)}).state_dict(), tmp_path / "w.pth")
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(0, 2, (64, 5, 3)).astype(np.float32))
    section = {
        "source": {"pytorch": {"state_dict": "w.pth", "class": "user_lstm:Swapped"}},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 5, 3]}],
        "evaluate": {"data": "rows.npz"},
    }
    built = run(tmp_path, section)
    assert built.artifact is None
    assert "its rows are not independent" in built.broken[0]


def test_dropout_that_is_on_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "user_drop.py").write_text(MODULE)
    torch.save({"scale": torch.ones(1)}, tmp_path / "w.pth")
    section = {
        "source": {"pytorch": {"state_dict": "w.pth", "class": "user_drop:Dropped"}},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 5]}],
    }
    with pytest.raises(BadInput, match=r"answers differently each time.*is dropout on") as caught:
        run(tmp_path, section)
    assert "nn.Dropout" in caught.value.remedy


@pytest.mark.parametrize("opset", [11, 12])
def test_static_int8_of_an_old_opset(tmp_path: Path, opset: int) -> None:
    matmul(tmp_path, opset)
    x = rows(tmp_path)[:600]
    np.savez(tmp_path / "rows.npz", x=x)
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}, "evaluate": {"data": "rows.npz"}, "compress": "int8-static"})
    assert built.report.chosen == "int8-static", built.broken
    assert built.artifact is not None
    engine = open_engine("onnx", Path(built.artifact.uri) / "model.onnx", built.artifact.manifest.signature)
    assert neighbours(engine.score, {"x": x}, "classification").changed == 0
