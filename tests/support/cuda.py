"""Which tests of an engine a machine can run on CUDA."""

from __future__ import annotations

import onnxruntime as ort
import pytest
import torch

CUDA = {
    "onnx": torch.cuda.is_available() and "CUDAExecutionProvider" in ort.get_available_providers(),
    "torch": torch.cuda.is_available(),
}


def needs_cuda(engine: str) -> list[pytest.MarkDecorator]:
    """The marks of a test of this engine on CUDA."""
    return [pytest.mark.gpu, pytest.mark.skipif(not CUDA[engine], reason="needs a CUDA device")]
