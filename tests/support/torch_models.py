"""The artifacts of `tests.support.models` for the torch engine: the same names and shapes, as torch.export programs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from deployments.artifacts.manifest import Manifest
from deployments.artifacts.package import write_artifact
from deployments.artifacts.samples import Samples
from tests.support.models import INPUT, OUTPUT, SIGNATURE, rows


class Mlp(nn.Module):
    """784-128-10 with softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.output(torch.relu(self.hidden(image))), dim=1)


class Failing(Mlp):
    """Fails on a batch with a row whose first feature is above 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        index = (image[:, 0] > 0.5).long()
        return super().forward(image + self.table[index].unsqueeze(1))


class Weighing(Mlp):
    """Weighs features by their places: makes tensors as it runs, one of them from the number of rows, and keeps one by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        places = torch.arange(image.shape[1], dtype=torch.float32, device=image.device)
        shift = torch.zeros(image.shape[0], 1) + torch.tensor([0.25])
        return super().forward(image.to(torch.float64).float() * (places / 784) * self.scale + shift.to(image.device))


def mlp_program(root: Path, model: str = "digits", seed: int = 0) -> tuple[str, str, Manifest]:
    """Returns (uri, digest, manifest)."""
    torch.manual_seed(seed)
    return _package(root, model, Mlp())


def failing_program(root: Path, model: str = "digits", seed: int = 0) -> tuple[str, str, Manifest]:
    """Like `mlp_program`, with rows that fail."""
    torch.manual_seed(seed)
    return _package(root, model, Failing())


def weighing_program(root: Path, model: str = "digits", seed: int = 0) -> tuple[str, str, Manifest]:
    """Like `mlp_program`, of a network that makes tensors as it runs."""
    torch.manual_seed(seed)
    return _package(root, model, Weighing())


def _package(root: Path, model: str, module: nn.Module) -> tuple[str, str, Manifest]:
    image = rows(4)
    with torch.no_grad():
        answer = module.eval()(torch.from_numpy(image)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pt2"
        program = torch.export.export(module, (torch.zeros(2, 784),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, file)
        artifact = write_artifact(
            root,
            model=model,
            engine="torch",
            signature=SIGNATURE,
            files={"model.pt2": file},
            samples=Samples(inputs={INPUT: image}, outputs={OUTPUT: answer}),
            report={},
            source={"kind": "test"},
        )
    return artifact.uri, artifact.digest, artifact.manifest
