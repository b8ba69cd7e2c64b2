"""The torch engine: a torch.export program, on CPU or CUDA. For what ONNX cannot express. Needs the extra `torch`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from cluster.errors import EngineFailure
from cluster.signature import Signature
from deployments.engines.datatypes import NUMPY, Array
from deployments.engines.failures import told_by
from deployments.engines.model_bytes import ModelBytes
from deployments.engines.port import DeviceLost
from deployments.engines.program import load_program

_log = logging.getLogger(__name__)


class TorchEngine:
    """Runs `model.pt2` of one artifact. The program keeps no state between calls, so that threads may share it."""

    def __init__(self, model: Path | ModelBytes, signature: Signature, *, threads: int, gpus: float) -> None:
        """Loads the program. Raises BadArtifact where it is damaged or would run code. `threads` holds for the whole process."""
        torch.set_num_threads(threads)
        self._signature = signature
        # TF32 has 10 bits of fraction: with it a replica would answer otherwise than the build, and never become ready.
        torch.backends.cudnn.allow_tf32 = False
        self._device = _device(gpus)
        program = load_program(model)
        if self._device.type == "cuda":
            # A replica beside it on the same GPU keeps its own share of the memory.
            torch.cuda.set_per_process_memory_fraction(min(float(gpus), 1.0))  # refuses whole numbers
            # Not the module's own `to`: that leaves tensors where they were which the program makes as it runs.
            program = move_to_device_pass(program, str(self._device))
        self._module = program.module()

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""
        return self._signature

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Scores one batch; see `Engine.score`."""
        rows = len(next(iter(tensors.values())))
        answers = self._answers(tensors)
        if isinstance(answers, str):
            if self._lost():
                raise DeviceLost(
                    f"the model ended this process's use of the GPU: {answers}", remedy="find the row at fault with gpus: 0"
                )
            raise EngineFailure(f"the model failed: {answers}")
        outputs: dict[str, Array] = {}
        for spec, value in zip(self._signature.outputs, answers, strict=True):
            if value.ndim == 0 or len(value) != rows or value.dtype != NUMPY[spec.datatype]:
                raise EngineFailure(f"the model gave {spec.name} as {value.dtype} {list(value.shape)} for {rows} rows")
            outputs[spec.name] = value
        return outputs

    def gradients(self, tensors: Mapping[str, Array], output: str, weights: Array) -> dict[str, Array]:
        """Derives one batch; see `Differentiable.gradients`."""
        place = next(place for place, spec in enumerate(self._signature.outputs) if spec.name == output)
        feed = [torch.tensor(tensors[spec.name], device=self._device) for spec in self._signature.inputs]
        by = {
            spec.name: value.requires_grad_()
            for spec, value in zip(self._signature.inputs, feed, strict=True)
            if value.is_floating_point()
        }
        if not by:
            raise EngineFailure("the model can't be derived: no input is floating-point")
        try:
            with torch.enable_grad():
                answer = _listed(self._module(*feed))[place]
                total = (answer * torch.tensor(weights, device=self._device)).sum()
                found = torch.autograd.grad(total, list(by.values()), allow_unused=True)
        except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
            raise EngineFailure(f"the model can't be derived: {told_by(error)}") from None
        return {
            name: np.zeros_like(tensors[name]) if slope is None else slope.cpu().numpy()
            for name, slope in zip(by, found, strict=True)
        }

    def _answers(self, tensors: Mapping[str, Array]) -> list[Array] | str:
        """The outputs in order, or why there are none. Not raised: an error that somebody keeps keeps the tensors on the GPU too,
        by its traceback, and the smaller batches that follow may need their room."""
        try:
            # A copy: the program may write where it reads.
            feed = [torch.tensor(tensors[spec.name], device=self._device) for spec in self._signature.inputs]
            with torch.no_grad():
                found = self._module(*feed)
            # CUDA computes behind the caller's back: what fails there is told here.
            return [answer.cpu().numpy() for answer in _listed(found)]
        except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
            return told_by(error)

    def _lost(self) -> bool:
        """Whether CUDA refuses everything from now on, as it does after an index out of range."""
        if self._device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False


def _listed(found: Any) -> list[torch.Tensor]:
    """What a program gave, in order."""
    return list(found.values() if isinstance(found, dict) else found if isinstance(found, tuple | list) else [found])


def _device(gpus: float) -> torch.device:
    if gpus > 0 and not torch.cuda.is_available():
        _log.warning("the replica has a GPU, but torch sees none: scoring on the CPU")
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")
