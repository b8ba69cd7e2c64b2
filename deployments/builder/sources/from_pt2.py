"""Worker: a torch.export program (.pt2) -> model.onnx, or itself for the torch engine, and the program's own answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import torch

from cluster.errors import BadArtifact, BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.binding import bind
from deployments.builder.sources.rows import read_inputs, rows_to_check
from deployments.builder.sources.torch_export import (
    Bound,
    answers,
    export,
    export_program,
    named_outputs,
    own_answers,
    reason,
    select_outputs,
    signature_json,
)
from deployments.builder.spec import InputSpec
from deployments.builder.steps.graph import fits
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
    """Job: file, engine, inputs and outputs (names to use), evaluate, task, target and expected (files to write)."""
    file = Path(job["file"])
    program = load(file)
    own = program_inputs(program, file)
    inputs, inputs_how = _bound(read_inputs(job), own)
    rows = rows_to_check(job["evaluate"], inputs)
    feed = [torch.from_numpy(rows[spec.name]) for spec in inputs]
    bound = Bound(program.module(), None, {})
    names, outputs_how = select_outputs(bound, feed, job["outputs"], str(file))
    told: dict[str, Any] = {
        "framework": f"torch {torch.__version__}",
        "inputs": inputs_how,
        "outputs": outputs_how,
        **own_answers(bound, {spec.name: rows[spec.name] for spec in inputs}, names, job, str(file)),
    }
    if job["engine"] == "torch":
        _write_program(bound, feed, inputs, job, file)
        few = answers(bound, [tensor[:2] for tensor in feed], where=str(file))
        return told | {"signature": signature_json(inputs, dict(zip(names, few, strict=True)), str(file))}
    if _whole(bound, feed):
        _export(program, Path(job["target"]), [spec.name for spec in inputs], names, file)
    else:
        export(bound, feed, inputs, names, Path(job["target"]), where=str(file))
    return told


def _bound(listed: list[InputSpec], own: list[TensorSpec]) -> tuple[list[TensorSpec], str]:
    """The program's inputs in its own order, by the document's names."""
    binding = bind([spec.name for spec in listed], [spec.name for spec in own], what="inputs")
    said = {spec.name: spec for spec in listed}
    found: list[TensorSpec] = []
    for spec in own:
        name = binding.names[spec.name]
        mine = said.get(name, spec.model_copy(update={"name": name}))
        if not fits(mine, spec):
            raise BadInput(
                f"input {name} is {spec.datatype} {list(spec.shape)}, not {mine.datatype} {list(mine.shape)} as said",
                where="inputs",
                remedy="correct the document",
            )
        found.append(mine)
    return found, binding.how


def _whole(bound: Bound, feed: list[torch.Tensor]) -> bool:
    """Whether the version's outputs are the program's, all of them and in its order."""
    few = [tensor[:2] for tensor in feed]
    with torch.no_grad():
        every = list(named_outputs(bound.call(*few))[0].values())
        kept = bound(*few)
    return len(every) == len(kept) and all(one is two or torch.equal(one, two) for one, two in zip(every, kept, strict=True))


def _write_program(bound: Bound, feed: list[torch.Tensor], inputs: list[TensorSpec], job: dict[str, Any], file: Path) -> None:
    if _whole(bound, feed):
        shutil.copyfile(file, job["target"])
    else:
        export_program(bound, feed, inputs, Path(job["target"]), where=str(file))


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
