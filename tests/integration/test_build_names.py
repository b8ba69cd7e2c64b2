"""Inputs and outputs go by their names, whatever order a document lists them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cluster.errors import BadInput
from deployments.builder.sources.binding import BY_NAME, IN_ORDER
from deployments.builder.spec import BuildSpec
from tests.support.builds import answer, refused, run

pytestmark = pytest.mark.usefixtures("builds_here")

MODULE = """
import torch
from torch import nn

class Balance(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, income, debt):
        return (income - debt) * self.scale

class Star(Balance):
    def forward(self, *tensors):
        return super().forward(*tensors)

class Optional(Balance):
    def forward(self, income, rate=None, debt=None):
        return super().forward(income, debt)

class Keyword(Balance):
    def forward(self, *, debt, income):
        return super().forward(income, debt)

class Rate(Balance):
    def forward(self, income, rate):
        return income * rate * self.scale

class Both(Balance):
    def forward(self, x):
        return {"scores": torch.cat([x, x + 1, x + 2], dim=1) * self.scale, "amount": x * 10, "loss": x.mean()}

class Inner(Balance):
    def __init__(self):
        super().__init__()
        self.layer = nn.Embedding(5, 2)

    def forward(self, x):
        return {"embedding": self.layer((x * 0).long()).sum(dim=1) * self.scale, "mul": x * self.scale * 3 + 1}

class Pair(Balance):
    def forward(self, x):
        return x * self.scale, x * 10
"""
TWO = [{"name": name, "datatype": "FP32", "shape": [-1, 1]} for name in ("debt", "income")]
ONE = [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user_net.py").write_text(MODULE)
    torch.save({"scale": torch.ones(1)}, tmp_path / "w.pth")
    return tmp_path


def pytorch(name: str, inputs: list[dict[str, Any]] = TWO, **more: Any) -> dict[str, Any]:
    source = {"pytorch": {"state_dict": "w.pth", "class": f"user_net:{name}"}}
    return {"source": source, "inputs": inputs, "optimise": False, **more}


@pytest.mark.parametrize("name", ["Balance", "Optional", "Keyword"])
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_income_less_debt_is_70_in_whatever_order_they_are_listed(folder: Path, name: str, engine: str) -> None:
    built = run(folder, pytorch(name, engine=engine))
    assert answer(built, income=[[100.0]], debt=[[30.0]])["output"].tolist() == [[70.0]]
    assert built.report.source["inputs"] == BY_NAME


def test_a_forward_without_names_takes_the_order_listed_and_says_so(folder: Path) -> None:
    said: list[str] = []
    built = run(folder, pytorch("Star"), said=said)
    assert answer(built, income=[[100.0]], debt=[[30.0]])["output"].tolist() == [[-70.0]]
    assert built.report.source["inputs"] == IN_ORDER
    assert any("inputs are taken in the order listed" in line for line in said)


def test_names_that_forward_does_not_have_are_refused_with_those_it_has(folder: Path) -> None:
    inputs = [{**TWO[0], "name": "owed"}, TWO[1]]
    refused(folder, pytorch("Balance", inputs), "no input owed; its inputs are income, debt")
    refused(folder, pytorch("Balance", TWO[:1]), "inputs income too")


def test_a_parameter_can_be_a_constant(folder: Path) -> None:
    built = run(folder, pytorch("Rate", [TWO[1]], constants={"rate": 0.5}))
    assert answer(built, income=[[100.0]])["output"].tolist() == [[50.0]]
    refused_section = pytorch("Rate", [TWO[1]], constants={"speed": 1})
    with pytest.raises(BadInput, match="no parameter speed"):
        run(folder, refused_section)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_outputs_are_selected_by_a_dicts_keys_in_the_order_asked(folder: Path, engine: str) -> None:
    built = run(folder, pytorch("Both", ONE, outputs=["amount", "scores"], engine=engine))
    found = answer(built, x=[[2.0], [3.0]])
    assert list(found) == ["amount", "scores"]
    assert found["amount"].tolist() == [[20.0], [30.0]]
    assert found["scores"].tolist() == [[2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]
    assert built.artifact is not None
    assert [spec.shape for spec in built.artifact.manifest.signature.outputs] == [(-1, 1), (-1, 3)]


def test_an_output_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    refused(folder, pytorch("Both", ONE, outputs=["amounts"]), "no output amounts; its outputs are scores, amount, loss")


def test_a_scalar_output_is_left_out_or_refused_by_its_name(folder: Path) -> None:
    error = refused(folder, pytorch("Both", ONE), "output loss is no tensor with a row for each row")
    assert "outputs: [scores, amount]" in error.remedy


def test_a_tuple_has_no_names_and_takes_those_listed(folder: Path) -> None:
    built = run(folder, pytorch("Pair", ONE, outputs=["amount", "ten"]))
    assert {name: value.tolist() for name, value in answer(built, x=[[2.0]]).items()} == {"amount": [[2.0]], "ten": [[20.0]]}
    assert built.report.source["outputs"] == IN_ORDER
    refused_section = pytorch("Pair", ONE, outputs=["ten"])
    with pytest.raises(BadInput, match="2 outputs without names, 1 are named"):
        run(folder, refused_section)


def test_a_program_binds_by_the_names_it_was_exported_with(folder: Path) -> None:
    class Balance(torch.nn.Module):
        def forward(self, income: torch.Tensor, debt: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"left": income - debt, "sum": income + debt}

    rows = torch.export.Dim("rows")
    example = (torch.zeros(2, 1), torch.zeros(2, 1))
    program = torch.export.export(Balance(), example, dynamic_shapes=({0: rows}, {0: rows}))
    torch.export.save(program, folder / "m.pt2")
    for engine in ("onnx", "torch"):
        section = {"source": {"pt2": "m.pt2"}, "inputs": TWO, "outputs": ["sum", "left"], "optimise": False, "engine": engine}
        found = answer(run(folder, section), income=[[100.0]], debt=[[30.0]])
        assert {name: value.tolist() for name, value in found.items()} == {"sum": [[130.0]], "left": [[70.0]]}
    one = {"source": {"pt2": "m.pt2"}, "inputs": TWO, "outputs": ["left"], "optimise": False, "engine": "torch"}
    assert answer(run(folder, one), income=[[100.0]], debt=[[30.0]])["left"].tolist() == [[70.0]]


def test_a_keras_model_binds_by_its_layers(folder: Path) -> None:
    import keras

    income, debt = (keras.Input((1,), name=name) for name in ("income", "debt"))
    left = keras.layers.Subtract(name="left")([income, debt])
    both = keras.layers.Add(name="both")([income, debt])
    keras.Model([income, debt], [left, both]).save(folder / "list.keras")
    keras.Model({"income": income, "debt": debt}, {"left": left, "both": both}).save(folder / "dict.keras")
    for name in ("list.keras", "dict.keras"):
        section = {"source": {"keras": name}, "inputs": TWO, "outputs": ["both", "left"], "optimise": False}
        found = answer(run(folder, section), income=[[100.0]], debt=[[30.0]])
        assert {name: value.tolist() for name, value in found.items()} == {"both": [[130.0]], "left": [[70.0]]}
    inputs = [{**TWO[0], "name": "owed"}, TWO[1]]
    with pytest.raises(BadInput, match="no input owed"):
        run(folder, {"source": {"keras": "list.keras"}, "inputs": inputs})
    with pytest.raises(BadInput, match="no output right; its outputs are left, both"):
        run(folder, {"source": {"keras": "list.keras"}, "outputs": ["right"]})


def test_an_onnx_files_outputs_come_in_the_order_asked(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["x"], ["less"])],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("same", "less")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    built = run(folder, {"source": {"onnx": "m.onnx"}, "outputs": ["less", "same"]})
    assert {name: value.tolist() for name, value in answer(built, x=[[2.0]]).items()} == {"less": [[-2.0]], "same": [[2.0]]}
    assert list(answer(built, x=np.zeros((1, 1)))) == ["less", "same"]


def test_a_constant_cannot_be_an_input_too() -> None:
    with pytest.raises(ValueError, match="debt stands among the inputs too"):
        BuildSpec.model_validate(pytorch("Balance", constants={"debt": 1}))


def test_an_output_may_be_called_as_the_exporter_calls_a_tensor_within(folder: Path) -> None:
    torch.save({"scale": torch.ones(1), "layer.weight": torch.ones(5, 2)}, folder / "w.pth")
    found = run(folder, pytorch("Inner", ONE))
    assert found.artifact is not None, found.broken
    assert [spec.name for spec in found.artifact.manifest.signature.outputs] == ["embedding", "mul"]
    assert answer(found, x=[[1.0]])["mul"].tolist() == [[4.0]]
