"""Worker: a TensorFlow SavedModel -> model.onnx and TensorFlow's own answers. Needs the extra `tensorflow`, only here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import tensorflow as tf

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.answers import record
from deployments.builder.sources.binding import bind, natural, select
from deployments.builder.sources.rows import read_inputs, rows_to_check
from deployments.builder.steps.renaming import keep_outputs, rename
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array
from deployments.engines.failures import told_by

DATATYPES = {
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
    "float16": Datatype.FP16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "bool": Datatype.BOOL,
    "uint8": Datatype.UINT8,
    "string": Datatype.BYTES,
}
SIGNATURE = "serving_default"
OPSET = 18


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file (the folder), inputs and outputs (names to use), evaluate, task, target and expected (files to write)."""
    folder = job["file"]
    function = _load(folder)
    own = function.structured_input_signature[1]
    listed = {spec.name: spec for spec in read_inputs(job)}
    inputs_bound = bind(list(listed), natural(list(own)), what="inputs")
    inputs = [listed.get(name) or _spec(old, own[old], folder, name) for old, name in inputs_bound.names.items()]
    answers = natural(list(function.structured_outputs))
    outputs_bound = select(job["outputs"], answers, named=len(answers) > 1)
    rows = rows_to_check(job["evaluate"], inputs)

    def score(batch: Mapping[str, Array]) -> dict[str, Array]:
        try:
            found = function(**{old: tf.constant(batch[name]) for old, name in inputs_bound.names.items()})
        except (ValueError, TypeError, tf.errors.OpError) as error:
            remedy = "check evaluate.data; the build's log has the lines that failed"
            raise BadInput(f"the model fails on the rows: {told_by(error)}", where=folder, remedy=remedy) from error
        return {new: found[old].numpy() for old, new in outputs_bound.names.items()}

    told = record(score, {spec.name: rows[spec.name] for spec in inputs}, job)
    _convert(folder, job["target"])
    model = onnx.load(job["target"])
    rename(model, dict(inputs_bound.names) | dict(outputs_bound.names))
    keep_outputs(model, list(outputs_bound.names.values()))
    onnx.save(model, job["target"])
    return {"framework": f"tensorflow {tf.__version__}", "inputs": inputs_bound.how, "outputs": outputs_bound.how, **told}


def _load(folder: str) -> Any:
    try:
        function = tf.saved_model.load(folder).signatures.get(SIGNATURE)
    except (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise BadInput(f"is no whole SavedModel: {first}", where=folder, remedy="save it with model.export(folder)") from error
    if function is None:
        raise BadInput(f"has no signature {SIGNATURE}", where=folder, remedy="save it with model.export(folder)")
    return function


def _spec(own: str, tensor: Any, folder: str, name: str) -> TensorSpec:
    datatype = DATATYPES.get(tensor.dtype.name)
    if datatype is None or not tensor.shape.rank or tensor.shape[0] is not None:
        raise BadInput(
            f"input {own} is {tensor.dtype.name} {tensor.shape}",
            where=folder,
            remedy="give it a free first axis of numbers or text",
        )
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *(-1 if axis is None else int(axis) for axis in tensor.shape[1:])))


def _convert(folder: str, target: str) -> None:
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", folder, "--signature_def", SIGNATURE]
    ended = subprocess.run([*command, "--opset", str(OPSET), "--output", target], capture_output=True, text=True, check=False)
    print(ended.stdout, ended.stderr, flush=True)  # noqa: T201  this is the build's log
    if ended.returncode or not Path(target).exists():
        reasons = [line for line in (ended.stdout + ended.stderr).splitlines() if "not supported" in line or "Error" in line]
        raise BadInput(
            f"can't be exported to ONNX: {(reasons or ['see the log'])[-1]}", where=folder, remedy="replace that operator"
        )


if __name__ == "__main__":
    serve(step)
