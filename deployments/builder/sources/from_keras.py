"""Worker: a Keras file (.h5 as TensorFlow saves it, or .keras) -> model.onnx and the network's own answers.

Runs Keras on torch: TensorFlow is not needed. Keras' safe mode stays on, so a file with Lambda layers is refused, not run.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import torch

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.answers import blamed
from deployments.builder.sources.binding import bind, select
from deployments.builder.sources.rows import read_inputs, rows_to_check
from deployments.builder.sources.torch_export import Bound, export, own_answers, select_outputs
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
        """The Keras model's outputs, for its inputs in order, which it may want as a dict."""
        if isinstance(self.model, keras.Sequential):
            return self.model(*tensors)
        return self.model(keras.tree.pack_sequence_as(self.model.input, list(tensors)))


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, custom (layer classes), code, inputs (those of the file where empty), outputs, evaluate, task, target and
    expected (files to write)."""
    model = load(Path(job["file"]), custom_layers(job["custom"], job["code"]))
    own = [input_spec(item, job["file"]) for item in model.inputs]
    listed = {spec.name: spec for spec in read_inputs(job)}
    binding = bind(list(listed), [spec.name for spec in own], what="inputs")
    renamed = [spec.model_copy(update={"name": binding.names[spec.name]}) for spec in own]
    inputs = [listed.get(spec.name, spec) for spec in renamed]
    bound = Bound(Wrapped(model).eval(), None, {})
    rows = rows_to_check(job["evaluate"], inputs)
    feed = [torch.from_numpy(rows[spec.name]) for spec in inputs]
    names, outputs_how = _outputs(model, bound, feed, job)
    told = own_answers(bound, {spec.name: rows[spec.name] for spec in inputs}, names, job, job["file"])
    with blamed(told, job["file"]):
        export(bound, feed, inputs, names, Path(job["target"]), where=job["file"])
    return {
        "framework": f"keras {keras.__version__} on torch {torch.__version__}",
        "parameters": int(model.count_params()),
        "inputs": binding.how,
        "outputs": outputs_how,
        **told,
    }


def _outputs(model: Any, bound: Bound, feed: list[torch.Tensor], job: dict[str, Any]) -> tuple[list[str], str]:
    """The outputs' names. Of several that come as a list, the names are those of the layers that give them."""
    layers = list(getattr(model, "output_names", ()))
    listed = not isinstance(model, keras.Sequential) and isinstance(model.output, list | tuple)
    if not listed or len(layers) < 2 or len(set(layers)) != len(layers):
        return select_outputs(bound, feed, job["outputs"], job["file"])
    binding = select(job["outputs"], layers, named=True)
    bound.keep([str(layers.index(name)) for name in binding.names])
    return list(binding.names.values()), binding.how


def custom_layers(references: list[str], code: str) -> dict[str, Any]:
    """The user's own layer classes, `module:Class` each, by name. Raises BadInput."""
    found: dict[str, Any] = {}
    if references:
        sys.path.insert(0, code)
    for reference in references:
        module_name, _, name = reference.partition(":")
        try:
            found[name] = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise BadInput(
                f"can't import {reference}: {error}", where=code, remedy="set custom to module:Class, and code to its folder"
            ) from error
    return found


def load(file: Path, custom: Mapping[str, Any]) -> Any:
    """The model, without its training state. Raises BadInput where the file is damaged or would run code."""
    try:
        return keras.saving.load_model(file, compile=False, custom_objects=dict(custom))
    except (ValueError, TypeError, OSError, KeyError, AttributeError, NotImplementedError) as error:
        if file.suffix == ".h5" and "time_major" in str(error):
            return _without_time_major(file, custom)
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        if "lambda" in str(error).lower() and "unsafe" in str(error).lower():
            raise BadInput(
                "holds a Lambda layer, which is code; it was not run", where=str(file), remedy="use a layer class"
            ) from error
        unknown = re.search(r"(?:Could not locate class|Unknown layer:) '?(\w+)'?", str(error))
        if unknown:
            raise BadInput(
                f"holds the layer {unknown.group(1)}, which Keras does not have",
                where=str(file),
                remedy=f"name its class: source: {{keras: {{file: {file.name}, custom: [module:{unknown.group(1)}], code: .}}}}",
            ) from error
        raise BadInput(f"is truncated, or no Keras file: {first}", where=str(file), remedy=REMEDY) from error


def _without_time_major(file: Path, custom: Mapping[str, Any]) -> Any:
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
            return keras.saving.load_model(copy, compile=False, custom_objects=dict(custom))
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"can't be read: {str(error).splitlines()[0]}", where=str(file), remedy="use the saved_model source"
            ) from error


def _dicts(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in _dicts(item))]
    return [found for item in value for found in _dicts(item)] if isinstance(value, list) else []


def input_spec(tensor: Any, file: str) -> TensorSpec:
    """A Keras model's input as it stands in a signature. Raises BadInput."""
    datatype = DATATYPES.get(str(tensor.dtype))
    if datatype is None:
        raise BadInput(f"input {tensor.name} is {tensor.dtype}", where=file, remedy="use the saved_model source")
    return TensorSpec(
        name=tensor.name, datatype=datatype, shape=(-1, *(-1 if axis is None else int(axis) for axis in tensor.shape[1:]))
    )


if __name__ == "__main__":
    serve(step)
