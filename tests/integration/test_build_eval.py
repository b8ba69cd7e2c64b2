"""A network is built as it is served, not as it was trained: means of batches and dropout are training's alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.builds import answer, run

MODULE = """
from torch import nn

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, eps=0.0)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(x))
"""


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.usefixtures("builds_here")
def test_batch_norm_takes_the_means_it_learned_and_nothing_is_dropped(tmp_path: Path, engine: str) -> None:
    (tmp_path / "user_norm.py").write_text(MODULE)
    weights = {
        "norm.weight": torch.ones(2),
        "norm.bias": torch.zeros(2),
        "norm.running_mean": torch.tensor([10.0, 20.0]),
        "norm.running_var": torch.tensor([4.0, 16.0]),
        "norm.num_batches_tracked": torch.tensor(7),
    }
    torch.save(weights, tmp_path / "w.pth")
    section = {
        "source": {"pytorch": {"state_dict": "w.pth", "class": "user_norm:Norm"}},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "engine": engine,
        "optimise": False,
    }
    built = run(tmp_path, section)
    found = answer(built, x=[[12.0, 20.0], [0.0, 0.0]])["output"]
    np.testing.assert_allclose(found, [[1.0, 0.0], [-5.0, -5.0]], atol=1e-6)
    assert built.report.source["neighbours"]["changed"] == 0.0
