"""The torch engine: a torch.export program, on CPU or CUDA. For what ONNX cannot express. Needs the extra `torch`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from cluster.errors import EngineFailure
from cluster.signature import Signature
from deployments.datatypes import NUMPY, Array
from deployments.engines.program import load_program

_log = logging.getLogger(__name__)


class TorchEngine:
    """Runs `model.pt2` of one artifact. The program keeps no state between calls, so that threads may share it."""

    def __init__(self, path: Path, signature: Signature, *, threads: int, gpus: float) -> None:
        """Loads the program. Raises BadArtifact where it is damaged or would run code. `threads` holds for the whole process."""
        torch.set_num_threads(threads)
        self._signature = signature
        # TF32 has 10 bits of fraction: with it a replica would answer otherwise than the build, and never become ready.
        torch.backends.cudnn.allow_tf32 = False
        self._device = _device(gpus)
        self._module = load_program(path).module().to(self._device)

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""
        return self._signature

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Scores one batch; see `Engine.score`."""
        rows = len(next(iter(tensors.values())))
        try:
            # A copy: the program may write where it reads.
            feed = [torch.tensor(tensors[spec.name], device=self._device) for spec in self._signature.inputs]
            with torch.no_grad():
                found = self._module(*feed)
        except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
            first = str(error).strip().split("\n", 1)[0]
            raise EngineFailure(f"the model failed: {first}") from error
        answers = list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, tuple | list) else [found]
        outputs: dict[str, Array] = {}
        for spec, answer in zip(self._signature.outputs, answers, strict=True):
            value = answer.cpu().numpy()
            if value.ndim == 0 or len(value) != rows or value.dtype != NUMPY[spec.datatype]:
                raise EngineFailure(f"the model gave {spec.name} as {value.dtype} {list(value.shape)} for {rows} rows")
            outputs[spec.name] = value
        return outputs


def _device(gpus: float) -> torch.device:
    if gpus > 0 and not torch.cuda.is_available():
        _log.warning("the replica has a GPU, but torch sees none: scoring on the CPU")
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")
