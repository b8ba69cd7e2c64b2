"""Files that take one row at a time, or have their rows along another axis, are served for any number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.builds import answer, run

pytestmark = pytest.mark.usefixtures("builds_here")
FLOAT = TensorProto.FLOAT


def tensor(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, list(shape))


def save(file: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int, **held: np.ndarray) -> None:
    weights = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), file)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("axis", ["n", None])
def test_a_state_with_its_rows_along_the_second_axis_is_turned(tmp_path: Path, opset: int, axis: str | None) -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["state"], ["taken"])], "then", [], [tensor("taken", 2, axis, 3)])
    other = helper.make_graph([helper.make_node("Neg", ["state"], ["given"])], "else", [], [tensor("given", 2, axis, 3)])
    first, second = (
        helper.make_node("Gather", ["kept", place], [target], axis=0) for place, target in (("zero", "a"), ("one", "b"))
    )
    nodes = [
        helper.make_node("If", ["yes"], ["kept"], then_branch=branch, else_branch=other),
        first,
        second,
        helper.make_node("Sub", ["a", "b"], ["less"]),
        helper.make_node("Add", ["x", "less"], ["y"]),
        helper.make_node("Add", ["kept", "kept"], ["next"]),
    ]
    held = {"yes": np.array(True), "zero": np.array(0), "one": np.array(1)}
    inputs, outputs = (
        [tensor("x", axis, 3), tensor("state", 2, axis, 3)],
        [tensor("y", axis, 3), tensor("next", None, None, None)],
    )
    save(tmp_path / "m.onnx", nodes, inputs, outputs, opset, **held)
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}, "optimise": False})
    assert built.artifact is not None
    signature = built.artifact.manifest.signature
    assert [one.shape for one in (*signature.inputs, *signature.outputs)] == [(-1, 3), (-1, 2, 3), (-1, 3), (-1, 2, 3)]
    state = np.arange(18.0).reshape(3, 2, 3)
    found = answer(built, x=np.ones((3, 3)), state=state)
    assert found["y"].tolist() == (1 + state[:, 0] - state[:, 1]).tolist()
    assert found["next"].tolist() == (2 * state).tolist()
    assert "row_by_row" not in built.report.source


@pytest.mark.parametrize("opset", [11, 17])
def test_a_graph_that_insists_on_one_row_gets_one_at_a_time(tmp_path: Path, opset: int) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["flat"]), helper.make_node("Mul", ["flat", "flat"], ["y"])]
    save(tmp_path / "m.onnx", nodes, [tensor("x", 1, 2, 2)], [tensor("y", 1, 4)], opset, shape=np.array([1, 4]))
    said: list[str] = []
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}}, said=said)
    assert built.report.source["row_by_row"] is True
    assert any("one after the other" in line for line in said)
    assert answer(built, x=np.arange(12.0).reshape(3, 2, 2))["y"].tolist() == (np.arange(12.0).reshape(3, 4) ** 2).tolist()
    assert answer(built, x=[[[1, 2], [3, 4]]])["y"].tolist() == [[1, 4, 9, 16]]


def test_an_answer_without_an_axis_for_its_one_row_is_whole(tmp_path: Path) -> None:
    nodes = [helper.make_node("Squeeze", ["x", "first"], ["y"])]
    save(tmp_path / "m.onnx", nodes, [tensor("x", 1, 3, 2)], [tensor("y", "length", 2)], 17, first=np.array([0]))
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}, "optimise": False})
    assert built.artifact is not None
    assert built.artifact.manifest.signature.outputs[0].shape == (-1, 3, 2)
    x = np.arange(12.0).reshape(2, 3, 2)
    assert answer(built, x=x)["y"].tolist() == x.tolist()


def test_a_graph_whose_one_row_can_be_many_is_not_slowed_down(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", [helper.make_node("Mul", ["x", "x"], ["y"])], [tensor("x", 1, 2)], [tensor("y", 1, 2)], 17)
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}, "optimise": False})
    assert answer(built, x=[[1, 2], [3, 4]])["y"].tolist() == [[1, 4], [9, 16]]
    assert "row_by_row" not in built.report.source
    assert built.report.source["fixed_batch"] == 1
