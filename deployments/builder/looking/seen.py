"""What is known of a model from its file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from cluster.signature import TensorSpec


class SeenInput(BaseModel):
    """An input. `unsure` says what of it is a guess, for whoever completes the document; empty where the file says all."""

    model_config = ConfigDict(frozen=True)

    spec: TensorSpec
    unsure: str = ""


class Seen(BaseModel):
    """`settings` are the source's fields beside its file, `unsure` says by field what is to be filled in. `constants` are inputs
    without rows, and `notes` what a reader may want to know. No inputs: the file says them, and the build reads them there."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, Any] = {}
    unsure: dict[str, str] = {}
    inputs: tuple[SeenInput, ...] = ()
    outputs: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
