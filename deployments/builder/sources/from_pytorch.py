"""Worker: a PyTorch state_dict with its class -> model.onnx and the network's own answers. The only way in for user code."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import BadInput
from cluster.signature import TensorSpec
from deployments.builder.sources.rows import rows_to_check
from deployments.builder.sources.torch_export import answers, export, export_program, output_names, signature_json
from deployments.builder.worker import serve

# How training frameworks wrap the weights in a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")
REMEDY = "save it with torch.save(model.state_dict(), path)"


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, engine, class, args, code, inputs, outputs, evaluate, target and expected (files to write)."""
    inputs = [TensorSpec.model_validate(item) for item in job["inputs"]]
    file = Path(job["file"])
    module = make_module(job["class"], job["args"], Path(job["code"]))
    fill(module, read_weights(file), file, job["class"])
    module.eval()
    rows = rows_to_check(job["evaluate"], inputs)
    feed = [torch.from_numpy(rows[spec.name]) for spec in inputs]
    expected = answers(module, feed, where=job["class"])
    names = output_names(job["outputs"], len(expected))
    told: dict[str, Any] = {
        "framework": f"torch {torch.__version__}",
        "parameters": sum(item.numel() for item in module.parameters()),
    }
    if job["engine"] == "torch":
        export_program(module, feed, inputs, Path(job["target"]), where=job["class"])
        told["signature"] = signature_json(inputs, dict(zip(names, expected, strict=True)), job["class"])
    else:
        export(module, feed, inputs, names, Path(job["target"]), where=job["class"])
    np.savez(job["expected"], allow_pickle=False, **dict(zip(names, expected, strict=True)))
    return told


def make_module(reference: str, args: Mapping[str, Any], code: Path) -> torch.nn.Module:
    """Imports `module:Class` from the folder `code` and makes one. Raises BadInput."""
    module_name, _, class_name = reference.partition(":")
    sys.path.insert(0, str(code))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"can't import {reference}: {error}", where=str(code), remedy="set class to module:Class, and code to its folder"
        ) from error
    try:
        module = found(**args)
    except TypeError as error:
        raise BadInput(f"can't make {reference} with {dict(args)}: {error}", where=str(code), remedy="set args") from error
    if not isinstance(module, torch.nn.Module):
        raise BadInput(f"{reference} makes a {type(module).__name__}", where=str(code), remedy="name a torch.nn.Module")
    return module


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Reads a state_dict without ever running code that the file holds. Raises BadInput."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise BadInput("is truncated, or no PyTorch file", where=str(file), remedy=REMEDY) from error
        raise BadInput("holds pickled code, not only weights; it was not run", where=str(file), remedy=REMEDY) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise BadInput("is truncated, or no PyTorch file", where=str(file), remedy=REMEDY) from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise BadInput("is no state_dict", where=str(file), remedy=REMEDY)
    return found


def fill(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], file: Path, reference: str) -> None:
    """Loads the weights. Raises BadInput that lists every name and shape that does not match."""
    own = module.state_dict()
    wrong = [f"{name} is missing in the file" for name in own if name not in weights]
    wrong += [f"{name} is unknown to the class" for name in weights if name not in own]
    wrong += [
        f"{name} is {list(weights[name].shape)} in the file, {list(value.shape)} in the class"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if wrong:
        raise BadInput(
            f"does not fit {reference}: {'; '.join(wrong)}", where=str(file), remedy="name the class and args it was trained with"
        )
    module.load_state_dict(weights)


if __name__ == "__main__":
    serve(step)
