"""Worker: an ONNX file, with external data or without -> one model.onnx that holds everything, and the file's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Signature, TensorSpec
from deployments.builder.sources.rows import rows_to_check
from deployments.builder.steps.graph import check_inputs, read_signature, run_rows
from deployments.builder.worker import serve
from deployments.engines.onnx import OnnxEngine

# A protobuf message can't be larger: above it the weights stay in a file of their own.
LARGEST_BYTES = 2**31 - 2**20


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, inputs (to check), outputs (to keep), evaluate, target and expected (files to write)."""
    file = Path(job["file"])
    model = _read(file)
    signature = read_signature(file)
    check_inputs([TensorSpec.model_validate(item) for item in job["inputs"]], signature, "inputs")
    if job["outputs"]:
        unknown = [name for name in job["outputs"] if signature.output(name) is None]
        if unknown:
            raise BadInput(f"the model has no output {', '.join(unknown)}", where="outputs", remedy="use the names in the file")
        kept = [item for item in model.graph.output if item.name in job["outputs"]]
        del model.graph.output[:]
        model.graph.output.extend(kept)
        signature = Signature(
            inputs=signature.inputs, outputs=tuple(spec for spec in signature.outputs if spec.name in job["outputs"])
        )
    rows = rows_to_check(job["evaluate"], signature.inputs)
    try:
        expected = run_rows(OnnxEngine(file, signature, threads=1, gpus=0), rows)
    except EngineFailure as error:
        raise BadInput(f"the model fails on the rows: {error.what}", where=str(file), remedy="check evaluate.data") from error
    np.savez(job["expected"], allow_pickle=False, **expected)
    onnx.save(model, job["target"])
    return {"framework": f"onnx opset {model.opset_import[0].version}, by {model.producer_name or 'unknown'}"}


def _read(file: Path) -> onnx.ModelProto:
    """The model with its external data inside. Raises BadInput where a file is damaged, missing or outside the model's folder."""
    try:
        model = onnx.load(file)
        onnx.checker.check_model(file)
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadInput(
            f"is no whole ONNX model: {first}", where=str(file), remedy="export it again, external data beside it"
        ) from error
    if model.ByteSize() > LARGEST_BYTES:
        raise BadInput("is larger than 2 GB", where=str(file), remedy="compress it first, or serve it with engine: torch")
    return model


if __name__ == "__main__":
    serve(step)
