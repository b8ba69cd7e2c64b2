"""The networks that two of the state_dicts fill, by the names of their weights: theirs are in packages that need much more."""

from __future__ import annotations

import torch
from torch import nn


class Crepe(nn.Module):
    """Pitch of a frame of sound (Kim et al. 2018), the tiny one: 1024 samples to 360 bins of 20 cents."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 128, 16, 16, 16, 32, 64)
        for layer in range(1, 7):
            first = layer == 1
            kernel, stride = ((512, 1), (4, 1)) if first else ((64, 1), (1, 1))
            setattr(self, f"conv{layer}", nn.Conv2d(channels[layer - 1], channels[layer], kernel, stride))
            setattr(self, f"conv{layer}_BN", nn.BatchNorm2d(channels[layer], eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Bins [n, 360] of frames [n, 1024]."""
        x = sound[:, None, :, None]
        for layer in range(1, 7):
            x = nn.functional.pad(x, (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{layer}_BN")(torch.relu(getattr(self, f"conv{layer}")(x)))
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


class VoiceEncoder(nn.Module):
    """Who speaks (Wan et al. 2018): 160 mel frames to a place on a sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        # Of its training alone.
        self.similarity_weight = nn.Parameter(torch.zeros(1))
        self.similarity_bias = nn.Parameter(torch.zeros(1))

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, 256] of [n, 160, 40]."""
        _, (hidden, _) = self.lstm(mels)
        embedding = torch.relu(self.linear(hidden[-1]))
        return embedding / torch.norm(embedding, dim=1, keepdim=True)
