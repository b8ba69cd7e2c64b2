"""The MLmodel file of a model folder: flavours, signature and input example, as data. Nothing that it names is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import BadInput, NotFound
from cluster.signature import Datatype

MLMODEL = "MLmodel"
LARGEST_BYTES = 16 * 2**20
REMEDY = "log the model again, with mlflow.FLAVOUR.log_model"
COLUMN_TYPES = {
    "boolean": Datatype.BOOL,
    "integer": Datatype.INT32,
    "long": Datatype.INT64,
    "float": Datatype.FP32,
    "double": Datatype.FP64,
    "string": Datatype.BYTES,
    "binary": Datatype.BYTES,
}
TENSOR_TYPES = {
    "bool": Datatype.BOOL,
    "int8": Datatype.INT8,
    "int16": Datatype.INT16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "uint8": Datatype.UINT8,
    "uint16": Datatype.UINT16,
    "uint32": Datatype.UINT32,
    "uint64": Datatype.UINT64,
    "float16": Datatype.FP16,
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
    "str": Datatype.BYTES,
    "object": Datatype.BYTES,
}


@dataclass(frozen=True, slots=True)
class SignedInput:
    """An input as MLflow's signature has it: a column (shape [-1, 1]) or a tensor. `name` is empty where it has none.

    `datatype` is None where no tensor holds what `kind` says."""

    name: str
    kind: str
    datatype: Datatype | None
    shape: tuple[int, ...]
    column: bool


@dataclass(frozen=True, slots=True)
class MlflowModel:
    """A model folder. `flavours` are their settings by name; `example` is the input example's file, None where there is none."""

    folder: Path
    flavours: Mapping[str, Mapping[str, Any]]
    inputs: tuple[SignedInput, ...]
    example: Path | None
    facts: Mapping[str, str]

    def inside(self, name: object) -> Path:
        """A file or folder that the MLmodel file names. Raises BadInput for one that leads out of the folder, or is not there."""
        found = self.folder / str(name)
        if not found.resolve().is_relative_to(self.folder.resolve()):
            raise BadInput(f"names {name}, which is outside of the model's folder", where=self.where, remedy=REMEDY)
        if not found.exists():
            raise BadInput(f"names {name}, which is not there", where=self.where, remedy=REMEDY)
        return found

    @property
    def where(self) -> str:
        """The MLmodel file."""
        return str(self.folder / MLMODEL)


def read_mlmodel(folder: Path) -> MlflowModel:
    """Reads the folder's MLmodel file. Raises NotFound or BadInput."""
    file = folder / MLMODEL
    if not file.is_file():
        raise NotFound(
            "has no MLmodel file", where=str(folder), remedy="name the folder that mlflow's log_model or save_model wrote"
        )
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise BadInput("is larger than 16 MiB", where=str(file), remedy=REMEDY)
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        flavours = {str(name): dict(settings or {}) for name, settings in found["flavors"].items()}
        signature = found.get("signature") or {}
        inputs = tuple(_input(one) for one in json.loads(signature.get("inputs") or "[]"))
        facts = {name: str(found[name]) for name in ("run_id", "model_id", "mlflow_version") if found.get(name)}
        saved = found.get("saved_input_example_info") or {}
        example = str(saved.get("artifact_path") or "")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise BadInput(f"makes no sense: {error}".splitlines()[0], where=str(file), remedy=REMEDY) from error
    model = MlflowModel(folder, flavours, inputs, None, facts)
    if not example:
        return model
    return MlflowModel(folder, flavours, inputs, model.inside(example), facts)


def _input(found: Mapping[str, Any]) -> SignedInput:
    name, kind = str(found.get("name") or ""), str(found["type"])
    if kind != "tensor":
        return SignedInput(name, kind, COLUMN_TYPES.get(kind), (-1, 1), column=True)
    tensor = found["tensor-spec"]
    kind = str(tensor["dtype"])
    axes = [int(axis) for axis in tensor["shape"]]
    return SignedInput(name, kind, TENSOR_TYPES.get(kind), (-1, *axes[1:]), column=False)
