"""What an image can execute, and which kind of it given versions need."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from cluster.errors import BadInput

TORCH = "torch"


class ImageVariant(StrEnum):
    """What an image can execute: ONNX alone, or PyTorch's programs too."""

    SERVE = "serve"
    SERVE_TORCH = "serve-torch"


def variant_for(engines: Mapping[str, str], asked: ImageVariant | None) -> ImageVariant:
    """The variant that versions need, by their models' names and engines, or the one that is asked for.

    Raises BadInput where that one can't execute them. Pure.
    """
    torch = sorted(name for name, engine in engines.items() if engine == TORCH)
    if torch and asked is ImageVariant.SERVE:
        raise BadInput(
            f"has no PyTorch, which executes {', '.join(torch)}",
            where=f"--variant {asked}",
            remedy=f"leave --variant out, or write --variant {ImageVariant.SERVE_TORCH}",
        )
    return asked or (ImageVariant.SERVE_TORCH if torch else ImageVariant.SERVE)
