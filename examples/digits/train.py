"""Trains the PyTorch networks by gradient descent: `python -m examples.digits.train --epochs 3 --out examples/digits/out/v1`.

Writes OUT/model.pth, a state_dict, and beside OUT the held-out test rows as test.npz and test.parquet, and `dim.npz`, the few dim
scans that the author of the calibrated network had at hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from examples.digits import data
from examples.digits.network import CalibratedDigits, Digits

NETWORKS = {"digits": Digits, "calibrated": CalibratedDigits}


def train(
    network: nn.Module, rows: data.Rows, *, epochs: int, seed: int, rate: float = 0.1, weight_decay: float = 1e-4
) -> list[float]:
    """Mini-batch gradient descent on cross-entropy; returns the mean loss of each epoch."""
    image, label = torch.from_numpy(rows.image), torch.from_numpy(rows.label)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=weight_decay)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(image), generator=order).split(64):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network.logits(image[batch]), label[batch])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        losses.append(total / len(image))
        print(f"epoch {epoch + 1}/{epochs}  loss {losses[-1]:.4f}", flush=True)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a digits network.")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.pth")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="digits")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    fit(options.out, options.network, options.epochs, options.seed)


def fit(out: str | Path, network: str = "digits", epochs: int = 20, seed: int = 0) -> list[float]:
    """Trains one of NETWORKS and writes the files; returns the loss of each epoch. `train:` of a Model document may name it."""
    folder = Path(out)
    training, test = data.load()
    rows = dim_and_bright(training)[0] if network == "calibrated" else training
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # so small a network only waits for more
    module = NETWORKS[network]()
    losses = train(module, rows, epochs=epochs, seed=seed)

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), folder / "model.pth")
    data.write(training, folder.parent, "train")
    data.write(test, folder.parent, "test")
    dim, _ = dim_and_bright(test)
    data.write(dim, folder.parent, "dim")
    with torch.no_grad():
        right = (module(torch.from_numpy(dim.image)).argmax(1).numpy() == dim.label).mean()
    print(f"{folder / 'model.pth'}: {right:.1%} of {len(dim.label)} dim test rows right")
    return losses


def dim_and_bright(rows: data.Rows, limit: float = 93 / 256) -> tuple[data.Rows, data.Rows]:
    """Splits by mean brightness: the calibrated network knows the first part only."""
    dim = rows.image.mean(axis=1) < limit
    return data.Rows(rows.image[dim], rows.label[dim]), data.Rows(rows.image[~dim], rows.label[~dim])


if __name__ == "__main__":
    main()
