"""Worker: a torch.export program (.pt2) -> model.onnx, or itself for the torch engine, and the program's own answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from cluster.errors import BadArtifact, BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.rows import rows_to_check
from deployments.builder.sources.torch_export import answers, output_names, reason, signature_json
from deployments.builder.steps.renaming import rename
from deployments.builder.worker import serve
from deployments.engines.program import load_program

DATATYPES = {
    torch.float32: Datatype.FP32,
    torch.float64: Datatype.FP64,
    torch.float16: Datatype.FP16,
    torch.int64: Datatype.INT64,
    torch.int32: Datatype.INT32,
    torch.int8: Datatype.INT8,
    torch.uint8: Datatype.UINT8,
    torch.bool: Datatype.BOOL,
}
REMEDY = "save it with torch.export.save(torch.export.export(model, example, dynamic_shapes=({0: Dim('batch')},)), path)"


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, engine, inputs and outputs (names to use, in order), evaluate, target and expected (files to write)."""
    file = Path(job["file"])
    program = load(file)
    own = program_inputs(program, file)
    inputs = [TensorSpec.model_validate(item) for item in job["inputs"]] or own
    if [(spec.datatype, spec.shape) for spec in inputs] != [(spec.datatype, spec.shape) for spec in own]:
        said = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in own)
        raise BadInput(f"the program's inputs are {said}", where="inputs", remedy="list those, in order")
    rows = rows_to_check(job["evaluate"], inputs)
    module = program.module()
    expected = answers(module, [torch.from_numpy(rows[spec.name]) for spec in inputs], where=str(file))
    names = output_names(job["outputs"], len(expected))
    np.savez(job["expected"], allow_pickle=False, **dict(zip(names, expected, strict=True)))
    told: dict[str, Any] = {"framework": f"torch {torch.__version__}"}
    if job["engine"] == "torch":
        shutil.copyfile(file, job["target"])
        return told | {"signature": signature_json(inputs, dict(zip(names, expected, strict=True)), str(file))}
    _export(program, Path(job["target"]), [spec.name for spec in inputs], names, file)
    return told


def load(file: Path) -> torch.export.ExportedProgram:
    """Reads a program without running code that the file holds. Raises BadInput."""
    try:
        return load_program(file)
    except BadArtifact as error:
        raise BadInput(error.what, where=str(file), remedy=REMEDY) from error


def program_inputs(program: torch.export.ExportedProgram, file: Path) -> list[TensorSpec]:
    """The program's inputs. Raises BadInput where the batch axis is fixed."""
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    found = []
    for name in names:
        value = values[str(name)]
        axes = [-1 if isinstance(axis, torch.SymInt) else int(axis) for axis in value.shape]
        if not axes or axes[0] != -1:
            raise BadInput(f"input {name} has a fixed batch of {axes[0] if axes else 1}", where=str(file), remedy=REMEDY)
        found.append(TensorSpec(name=str(name), datatype=_datatype(value, str(name), file), shape=tuple(axes)))
    return found


def _datatype(value: torch.Tensor, name: str, file: Path) -> Datatype:
    if value.dtype not in DATATYPES:
        raise BadInput(
            f"{name} is {value.dtype}", where=str(file), remedy="use one of " + ", ".join(str(known) for known in DATATYPES)
        )
    return DATATYPES[value.dtype]


def _export(program: torch.export.ExportedProgram, target: Path, inputs: list[str], outputs: list[str], file: Path) -> None:
    try:
        exported = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise BadInput(
            f"can't be exported to ONNX: {reason(error)}", where=str(file), remedy="serve it with engine: torch"
        ) from error
    if exported is None:
        raise BadInput("can't be exported to ONNX", where=str(file), remedy="serve it with engine: torch")
    exported.save(str(target))
    model = onnx.load(target)
    rename(model, {})
    onnx.save(model, target)


if __name__ == "__main__":
    serve(step)
