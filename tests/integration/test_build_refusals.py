"""What can't be built is said in one sentence that names the cause, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.builds import answer, refused, run

pytestmark = pytest.mark.usefixtures("builds_here")
MODULE = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.scale

class Branches(Plain):
    def forward(self, x):
        if x.sum() > 0:
            return x * self.scale
        return x
"""
LAYER = """
import keras

class Doubled(keras.layers.Layer):
    def call(self, x):
        return x * 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user_plain.py").write_text(MODULE)
    (tmp_path / "user_needs.py").write_text("import a_package_that_nobody_has\n")
    weights = {"scale": torch.tensor([3.0])}
    torch.save(weights, tmp_path / "w.pth")
    torch.save({"epoch": 3, "net": {"ema": weights}, "optimizer": {"lr": 0.1}}, tmp_path / "checkpoint.pth")
    return tmp_path


def pytorch(state_dict: str = "w.pth", name: str = "user_plain:Plain", **more: Any) -> dict[str, Any]:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    source = {"pytorch": {"state_dict": state_dict, "class": name, **more}}
    return {"source": source, "inputs": inputs, "optimise": False}


def test_a_checkpoint_names_its_keys_and_takes_one(folder: Path) -> None:
    error = refused(folder, pytorch("checkpoint.pth"), r"no bare state_dict; it holds net \(dict\), optimizer \(dict\), epoch")
    assert "state_dict_key" in error.remedy
    refused(folder, pytorch("checkpoint.pth", state_dict_key="model"), r"has no model; it holds net")
    built = run(folder, pytorch("checkpoint.pth", state_dict_key="net.ema"))
    assert answer(built, x=[[1, 2]])["output"].tolist() == [[3.0, 6.0]]


def test_a_class_that_needs_a_package_names_it(folder: Path) -> None:
    error = refused(folder, pytorch(name="user_needs:Net"), "needs the package a_package_that_nobody_has, which is not installed")
    assert "pip install" in error.remedy
    assert "set code" in refused(folder, pytorch(name="user_nowhere:Net"), "there is no user_nowhere.py").remedy


def test_a_forward_that_branches_by_values_says_so(folder: Path) -> None:
    error = refused(folder, pytorch(name="user_plain:Branches"), "takes another way through the code for other values")
    assert "torch.where" in error.remedy


def test_a_keras_layer_of_ones_own_names_its_class_and_is_taken_from_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "user_layers.py").write_text(LAYER)
    monkeypatch.syspath_prepend(folder)
    import keras
    import user_layers

    given = keras.Input((2,), name="x")
    keras.Model(given, user_layers.Doubled()(given)).save(folder / "m.keras")
    error = refused(folder, {"source": {"keras": "m.keras"}}, "holds the layer Doubled, which Keras does not have")
    assert "custom: [module:Doubled]" in error.remedy
    built = run(folder, {"source": {"keras": {"file": "m.keras", "custom": ["user_layers:Doubled"]}}, "optimise": False})
    assert answer(built, x=[[1, 2]])["output"].tolist() == [[2, 4]]
