"""A small convolutional network on the digits: 28x28 images, two convolutions with batch norm."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from examples.digits import data


class SmallCnn(nn.Module):
    """[n, 784] to the probabilities of ten digits, by 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.output = nn.Linear(32 * 7 * 7, 10)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """What cross-entropy is computed on; [n, 10]."""
        return self.output(self.features(image.reshape(-1, 1, 28, 28)).flatten(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities [n, 10] of images [n, 784]."""
        return torch.softmax(self.logits(image), dim=1)


def fit(out: str = "out", epochs: int = 4, seed: int = 0) -> list[float]:
    """Trains with gradient descent on cross-entropy; writes model.pth, train.npz and test.npz into `out`."""
    torch.manual_seed(seed)
    training, test = data.load()
    folder = Path(out)
    data.write(training, folder, "train")
    data.write(test, folder, "test")
    image, label = torch.from_numpy(training.image), torch.from_numpy(training.label)
    network = SmallCnn()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(image)).split(64):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network.logits(image[batch]), label[batch])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        losses.append(total / len(image))
        print(f"epoch {epoch + 1}/{epochs}  loss {losses[-1]:.4f}", flush=True)
    torch.save(network.state_dict(), folder / "model.pth")
    return losses
