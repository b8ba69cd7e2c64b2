"""From a torch module to one ONNX file, and the module's own answers to compare with. Runs in workers only."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import BadInput
from cluster.signature import TensorSpec
from deployments.engines.datatypes import NUMPY

BATCH = 256


def answers(module: Any, feed: Sequence[torch.Tensor], *, where: str) -> list[np.ndarray[Any, Any]]:
    """The module's outputs for all rows, computed 256 at a time. Raises BadInput where it fails on them."""
    parts: list[list[np.ndarray[Any, Any]]] = []
    with torch.no_grad():
        for start in range(0, len(feed[0]), BATCH):
            try:
                out = module(*(tensor[start : start + BATCH] for tensor in feed))
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                first = str(error).strip().split("\n", 1)[0]
                raise BadInput(
                    f"the network fails on the rows: {first}", where=where, remedy="check the inputs' names, order and shapes"
                ) from error
            parts.append([item.numpy() for item in as_list(out, where)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def as_list(out: Any, where: str) -> list[torch.Tensor]:
    """The outputs in order. Raises BadInput unless they are tensors with the batch axis first."""
    found = list(out.values()) if isinstance(out, dict) else list(out) if isinstance(out, tuple | list) else [out]
    if not all(isinstance(item, torch.Tensor) and item.ndim > 0 for item in found):
        raise BadInput("the network does not return tensors", where=where, remedy="return a tensor, a tuple or a dict of tensors")
    return found


def output_names(wanted: Sequence[str], count: int) -> list[str]:
    """The outputs' names: those wanted, or `output`, or `output_0`, `output_1`... Raises BadInput where their number is wrong."""
    names = list(wanted) or (["output"] if count == 1 else [f"output_{i}" for i in range(count)])
    if len(names) != count:
        raise BadInput(f"the network has {count} outputs, {len(names)} are named", where="outputs", remedy="name each, in order")
    return names


def export(
    module: torch.nn.Module,
    feed: Sequence[torch.Tensor],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    file: Path,
    *,
    where: str,
) -> None:
    """Writes the module as one ONNX file with a free batch axis. Raises BadInput that names what can't be exported."""
    try:
        program = torch.onnx.export(
            module,
            _example(feed),
            dynamo=True,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=list(outputs),
            dynamic_shapes=_free_axes(module, inputs, _axis_name),
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise BadInput(
            f"can't be exported to ONNX: {reason(error)}", where=where, remedy="replace it, or serve it with engine: torch"
        ) from error
    if program is None:
        raise BadInput("can't be exported to ONNX", where=where, remedy="see the log")
    program.save(str(file))


def export_program(
    module: torch.nn.Module, feed: Sequence[torch.Tensor], inputs: Sequence[TensorSpec], file: Path, *, where: str
) -> None:
    """Writes the module as a torch.export program with a free batch axis. Raises BadInput that names what can't be exported."""
    try:
        program = torch.export.export(
            module, _example(feed), dynamic_shapes=_free_axes(module, inputs, lambda *_: torch.export.Dim.DYNAMIC)
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadInput(
            f"can't be exported: {reason(error)}", where=where, remedy="use operators that torch.export knows"
        ) from error
    torch.export.save(program, file)


def signature_json(inputs: Sequence[TensorSpec], outputs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The signature of a program, as plain data; `outputs` are its answers by name, numpy arrays."""
    specs = []
    for name, value in outputs.items():
        datatype = next((known for known, dtype in NUMPY.items() if dtype == value.dtype), None)
        if datatype is None:
            raise BadInput(f"output {name} is {value.dtype}", where=where, remedy="return plain numbers")
        specs.append(TensorSpec(name=name, datatype=datatype, shape=(-1, *value.shape[1:])))
    return {
        "inputs": [spec.model_dump(mode="json") for spec in inputs],
        "outputs": [spec.model_dump(mode="json") for spec in specs],
    }


def _example(feed: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Two rows: a batch of 1 would be taken for a constant."""
    return tuple(tensor[:2] if len(tensor) > 1 else torch.cat([tensor, tensor]) for tensor in feed)


def _axis_name(spec: TensorSpec, axis: int) -> str:
    return f"{spec.name}_{axis}" if axis else "batch"


def _free_axes(module: torch.nn.Module, inputs: Sequence[TensorSpec], name: Callable[[TensorSpec, int], Any]) -> tuple[Any, ...]:
    free: tuple[Any, ...] = tuple({axis: name(spec, axis) for axis, size in enumerate(spec.shape) if size < 0} for spec in inputs)
    starred = any(item.kind is item.VAR_POSITIONAL for item in inspect.signature(module.forward).parameters.values())
    return (free,) if starred else free


def reason(error: BaseException) -> str:
    """The operator that has no ONNX form, where the exporter names one; else its innermost first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    operator = re.search(r"op(?:erator)?='?([\w.:]+\.[\w.:]+)'?", text)
    if operator:
        return f"operator {operator.group(1)}"
    return text.strip().split("\n", 1)[0]
