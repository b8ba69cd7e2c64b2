"""Worker: a TensorFlow SavedModel -> model.onnx and TensorFlow's own answers. Needs the extra `tensorflow`, only here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.rows import rows_to_check
from deployments.builder.steps.renaming import rename
from deployments.builder.worker import serve

DATATYPES = {
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
    "float16": Datatype.FP16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
}
SIGNATURE = "serving_default"
OPSET = 18


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file (the folder), inputs and outputs (names to use, in order), evaluate, target and expected (files to write)."""
    folder = job["file"]
    function = _load(folder)
    own = sorted(function.structured_input_signature[1].items())
    inputs = [TensorSpec.model_validate(item) for item in job["inputs"]] or [_spec(name, item, folder) for name, item in own]
    answers = sorted(function.structured_outputs)
    outputs = list(job["outputs"]) or answers
    for what, mine, theirs in (("inputs", inputs, own), ("outputs", outputs, answers)):
        if len(mine) != len(theirs):
            raise BadInput(
                f"the model has {len(theirs)} {what}, {len(mine)} are listed", where=what, remedy="list each, in order"
            )
    rows = rows_to_check(job["evaluate"], inputs)
    expected = function(**{name: tf.constant(rows[spec.name]) for (name, _), spec in zip(own, inputs, strict=True)})
    np.savez(
        job["expected"], allow_pickle=False, **{new: expected[old].numpy() for new, old in zip(outputs, answers, strict=True)}
    )
    _convert(folder, job["target"])
    model = onnx.load(job["target"])
    names = {name: spec.name for (name, _), spec in zip(own, inputs, strict=True)} | dict(zip(answers, outputs, strict=True))
    rename(model, names)
    onnx.save(model, job["target"])
    return {"framework": f"tensorflow {tf.__version__}"}


def _load(folder: str) -> Any:
    try:
        function = tf.saved_model.load(folder).signatures.get(SIGNATURE)
    except (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise BadInput(f"is no whole SavedModel: {first}", where=folder, remedy="save it with model.export(folder)") from error
    if function is None:
        raise BadInput(f"has no signature {SIGNATURE}", where=folder, remedy="save it with model.export(folder)")
    return function


def _spec(name: str, tensor: Any, folder: str) -> TensorSpec:
    datatype = DATATYPES.get(tensor.dtype.name)
    if datatype is None or not tensor.shape.rank or tensor.shape[0] is not None:
        raise BadInput(
            f"input {name} is {tensor.dtype.name} {tensor.shape}", where=folder, remedy="give it a free first axis of numbers"
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
