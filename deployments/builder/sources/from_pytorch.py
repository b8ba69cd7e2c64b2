"""Worker: a PyTorch state_dict with its class, or a whole pickled network where the document allows it -> model.onnx and the
network's own answers. The only way in for user code."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cluster.errors import BadInput
from deployments.builder.sources.answers import blamed
from deployments.builder.sources.rows import read_inputs, rows_to_check
from deployments.builder.sources.torch_export import (
    answers,
    bind_forward,
    export,
    export_program,
    own_answers,
    select_outputs,
    signature_json,
)
from deployments.builder.worker import serve

# How training frameworks wrap the weights in a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")
REMEDY = "save it with torch.save(model.state_dict(), path)"
MOST_KEYS = 12


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, state_dict_key, engine, class, args, code, inputs, outputs, constants, evaluate, task, target and expected
    (files to write)."""
    inputs = read_inputs(job)
    file = Path(job["file"])
    where = job["class"] or str(file)
    if job["class"]:
        module = make_module(job["class"], job["args"], Path(job["code"]))
        fill(module, read_weights(file, job["state_dict_key"]), file, job["class"])
    else:
        module = unpickled(file, Path(job["code"]))
    module.eval()  # as it is served: in training nn.Dropout draws, and nn.BatchNorm takes its means over the batch
    bound, inputs_how = bind_forward(module, inputs, job["constants"])
    rows = rows_to_check(job["evaluate"], inputs)
    feed = [torch.from_numpy(rows[spec.name]) for spec in inputs]
    names, outputs_how = select_outputs(bound, feed, job["outputs"], where)
    told: dict[str, Any] = {
        "framework": f"torch {torch.__version__}",
        **({} if job["class"] else {"pickle": "allowed by the document"}),
        "parameters": sum(item.numel() for item in module.parameters()),
        "inputs": inputs_how,
        "outputs": outputs_how,
        **own_answers(bound, {spec.name: rows[spec.name] for spec in inputs}, names, job, where),
    }
    with blamed(told, where):
        if job["engine"] == "torch":
            export_program(bound, feed, inputs, Path(job["target"]), where=where)
            few = answers(bound, [tensor[:2] for tensor in feed], where=where)
            told["signature"] = signature_json(inputs, dict(zip(names, few, strict=True)), where)
        else:
            export(bound, feed, inputs, names, Path(job["target"]), where=where)
    return told


def make_module(reference: str, args: Mapping[str, Any], code: Path) -> torch.nn.Module:
    """Imports `module:Class` from the folder `code` and makes one. Raises BadInput."""
    module_name, _, class_name = reference.partition(":")
    sys.path.insert(0, str(code))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name == module_name.partition(".")[0]:
            raise BadInput(
                f"can't import {reference}: there is no {error.name}.py", where=str(code), remedy="set code to its folder"
            ) from error
        raise BadInput(
            f"{reference} needs the package {error.name}, which is not installed here",
            where=str(code),
            remedy=f"pip install {error.name} beside Headrace, under the name that it is published by",
        ) from error
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


def unpickled(file: Path, code: Path) -> torch.nn.Module:
    """A whole network, which the document says may run code as it is read; its classes may lie in `code`. Raises BadInput."""
    sys.path.insert(0, str(code))
    try:
        found = torch.load(file, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"needs the module {error.name}", where=str(file), remedy="set code to its folder, or install its package"
        ) from error
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadInput(f"can't be read: {first}", where=str(file), remedy="save it again with torch.save(model, path)") from error
    if isinstance(found, torch.jit.ScriptModule):
        raise BadInput(
            "is TorchScript, which torch's exporter does not take",
            where=str(file),
            remedy="save it with torch.export.save and name source: pt2, or export it to ONNX where it was trained",
        )
    if not isinstance(found, torch.nn.Module):
        raise BadInput(f"holds a {type(found).__name__}, no network", where=str(file), remedy=REMEDY + ", and name its class")
    return found.eval()


def read_weights(file: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """Reads a state_dict, or the one under `key` (dotted) of a checkpoint, without ever running code that the file holds.

    Raises BadInput.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise BadInput("is truncated, or no PyTorch file", where=str(file), remedy=REMEDY) from error
        raise BadInput("holds pickled code, not only weights; it was not run", where=str(file), remedy=REMEDY) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise BadInput("is truncated, or no PyTorch file", where=str(file), remedy=REMEDY) from error
    whole = found
    for part in key.split(".") if key else ():
        if not isinstance(found, dict) or part not in found:
            raise BadInput(
                f"has no {key}; it holds {_keys(whole)}", where=str(file), remedy="correct source.pytorch.state_dict_key"
            )
        found = found[part]
    for wrapper in () if key else WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise BadInput(
            f"is no bare state_dict; it holds {_keys(found)}",
            where=str(file),
            remedy="set source.pytorch.state_dict_key to the one that holds the weights, or " + REMEDY,
        )
    return found


def _keys(found: object) -> str:
    """The names of what a checkpoint holds, those that may be a state_dict first."""
    if not isinstance(found, dict):
        return f"one {type(found).__name__}"
    names = sorted(found, key=lambda name: not isinstance(found[name], dict))
    shown = ", ".join(f"{name} ({type(found[name]).__name__})" for name in names[:MOST_KEYS])
    return shown + (f" and {len(names) - MOST_KEYS} more" if len(names) > MOST_KEYS else "")


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
