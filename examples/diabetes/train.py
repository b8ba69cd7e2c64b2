"""A regression on real tabular data: how far diabetes will have progressed after a year (scikit-learn's 442 patients)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn

TEST_ROWS = 110


class Progression(nn.Module):
    """10 measurements to one number: 10-64-32-1, scaled back to the units of the data."""

    def __init__(self, mean: float = 0.0, spread: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, patient: torch.Tensor) -> torch.Tensor:
        """Progression [n, 1] of patients [n, 10]."""
        return self.layers(patient * 20) * self.spread + self.mean


def fit(out: str = "out", epochs: int = 60, seed: int = 0) -> list[float]:
    """Trains on squared error with gradient descent and weight decay; writes model.pth, train.npz and test.npz into `out`."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    values, target = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(values))
    test, training = order[:TEST_ROWS], order[TEST_ROWS:]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("test", test), ("train", training)):
        np.savez(folder / f"{name}.npz", patient=values[rows].astype(np.float32), progression=target[rows].astype(np.float32))
    patient = torch.from_numpy(values[training].astype(np.float32))
    wanted = torch.from_numpy(target[training].astype(np.float32)).unsqueeze(1)
    network = Progression(float(wanted.mean()), float(wanted.std()))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(patient)).split(32):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(
                (network(patient[batch]) - network.mean) / network.spread, (wanted[batch] - network.mean) / network.spread
            )
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        losses.append(total / len(patient))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{epochs}  loss {losses[-1]:.4f}", flush=True)
    torch.save(network.state_dict(), folder / "model.pth")
    return losses
