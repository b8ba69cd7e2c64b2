"""Worker: a Keras file (.h5 as TensorFlow saves it, or .keras) -> model.onnx and the network's own answers.

Runs Keras on torch: TensorFlow is not needed. Keras' safe mode stays on, so a file with Lambda layers is refused, not run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import torch

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.rows import rows_to_check
from deployments.builder.sources.torch_export import answers, export, output_names
from deployments.builder.worker import serve

DATATYPES = {
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
    "float16": Datatype.FP16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
}
REMEDY = "save it with model.save('model.h5') or model.save('model.keras')"


class Wrapped(torch.nn.Module):
    """The Keras model as a plain torch module, which torch's exporter can follow with a free batch axis."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The Keras model's outputs, for its inputs in order."""
        return self.model(tensors[0] if len(tensors) == 1 else list(tensors))


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, inputs (those of the file where empty), outputs, evaluate, target and expected (files to write)."""
    model = load(Path(job["file"]))
    own = [_spec(item, job["file"]) for item in model.inputs]
    inputs = [TensorSpec.model_validate(item) for item in job["inputs"]] or own
    if len(inputs) != len(own):
        raise BadInput(f"the model has {len(own)} inputs, {len(inputs)} are listed", where="inputs", remedy="list each, in order")
    module = Wrapped(model).eval()
    rows = rows_to_check(job["evaluate"], inputs)
    feed = [torch.from_numpy(rows[spec.name]) for spec in inputs]
    expected = answers(module, feed, where=job["file"])
    names = output_names(job["outputs"], len(expected))
    export(module, feed, inputs, names, Path(job["target"]), where=job["file"])
    np.savez(job["expected"], allow_pickle=False, **dict(zip(names, expected, strict=True)))
    return {"framework": f"keras {keras.__version__} on torch {torch.__version__}", "parameters": int(model.count_params())}


def load(file: Path) -> Any:
    """The model, without its training state. Raises BadInput where the file is damaged or would run code."""
    try:
        return keras.saving.load_model(file, compile=False)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, NotImplementedError) as error:
        if file.suffix == ".h5" and "time_major" in str(error):
            return _without_time_major(file)
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        if "lambda" in str(error).lower() and "unsafe" in str(error).lower():
            raise BadInput(
                "holds a Lambda layer, which is code; it was not run", where=str(file), remedy="use a layer class"
            ) from error
        raise BadInput(f"is truncated, or no Keras file: {first}", where=str(file), remedy=REMEDY) from error


def _without_time_major(file: Path) -> Any:
    """Keras 2 wrote `time_major` into recurrent layers; Keras 3 refuses it, whatever it says. False is the default."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        shutil.copyfile(file, copy)
        with h5py.File(copy, "r+") as opened:
            config = json.loads(opened.attrs["model_config"])
            if any(item.get("time_major") for item in _dicts(config)):
                raise BadInput("holds a recurrent layer with time_major", where=str(file), remedy="use the saved_model source")
            for item in _dicts(config):
                item.pop("time_major", None)
            opened.attrs["model_config"] = json.dumps(config)
        try:
            return keras.saving.load_model(copy, compile=False)
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"can't be read: {str(error).splitlines()[0]}", where=str(file), remedy="use the saved_model source"
            ) from error


def _dicts(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in _dicts(item))]
    return [found for item in value for found in _dicts(item)] if isinstance(value, list) else []


def _spec(tensor: Any, file: str) -> TensorSpec:
    datatype = DATATYPES.get(str(tensor.dtype))
    if datatype is None:
        raise BadInput(f"input {tensor.name} is {tensor.dtype}", where=file, remedy="use the saved_model source")
    return TensorSpec(
        name=tensor.name, datatype=datatype, shape=(-1, *(-1 if axis is None else int(axis) for axis in tensor.shape[1:]))
    )


if __name__ == "__main__":
    serve(step)
