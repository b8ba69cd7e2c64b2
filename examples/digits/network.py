"""The networks of this example: 784 pixels in 0..1 to the probabilities of ten digits."""

from __future__ import annotations

import torch
from torch import nn


class Digits(nn.Module):
    """784-128-10 with softmax."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, hidden)
        self.output = nn.Linear(hidden, 10)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """What cross-entropy is computed on; [n, 10]."""
        return self.output(torch.relu(self.hidden(image)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities [n, 10] of images [n, 784]."""
        return torch.softmax(self.logits(image), dim=1)


class CalibratedDigits(Digits):
    """Evens out how bright a scan is, by a table of gains with a step for every 1/256 of mean brightness.

    The table was cut to the scans that its author had at hand. Brighter ones point behind its end: the mistake that the demo
    rolls out, and that no check on the author's own rows can find.
    """

    def __init__(self, hidden: int = 128, steps: int = 94) -> None:
        super().__init__(hidden)
        self.register_buffer("gain", torch.linspace(1.2, 0.9, steps))

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """What cross-entropy is computed on; [n, 10]."""
        step = (image.mean(dim=1) * 256).long()
        return super().logits(image * self.gain[step].unsqueeze(1))
