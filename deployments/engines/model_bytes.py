"""A model file in memory, and what its graph keeps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """The very bytes that were verified. `beside` has the other files of the version by their paths, external data among them;
    `file` is where the model lies on this machine, None where it is sealed: nothing of it may be written or read there."""

    content: bytes = field(repr=False)
    where: str
    beside: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    file: Path | None = None


def told(model: Path | ModelBytes) -> str:
    """Where it is, in an error."""
    return model.where if isinstance(model, ModelBytes) else str(model)
