"""Which of Headrace's sources a flavour of MLflow is, and which inputs its signature gives that source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import BadInput
from cluster.signature import Datatype
from deployments.builder.sources.mlflow_models.mlmodel import MlflowModel, SignedInput
from deployments.builder.spec import (
    InputSpec,
    KerasSource,
    LightgbmSource,
    MlflowSource,
    ModelSource,
    PytorchSource,
    SklearnSource,
)

Settings = Mapping[str, Any]
TABLES = ("sklearn", "xgboost", "lightgbm", "catboost")
BOOSTED = ("xgboost", "lightgbm", "catboost")
ONLY_INPUT = "input"
PICKLED = "is kept as a pickle, which runs code when it is read; it was not read"
TRUST = "or say allow_pickle: true where you trust who made it"


def source_of(model: MlflowModel, asked: MlflowSource) -> tuple[str, ModelSource]:
    """The flavour that is taken, and the source that it is. Raises BadInput."""
    known = [name for name in SOURCES if name in model.flavours]
    if asked.flavour and asked.flavour not in known:
        raise BadInput(
            f"has no flavour {asked.flavour}; it has {', '.join(model.flavours)}",
            where=model.where,
            remedy=f"use {' or '.join(known)}" if known else f"log it by one of {', '.join(SOURCES)}",
        )
    if not known:
        raise BadInput(
            f"has the flavours {', '.join(model.flavours)}, none of which is data that can be converted",
            where=model.where,
            remedy=f"log it by one of {', '.join(SOURCES)}",
        )
    flavour = asked.flavour or known[0]
    return flavour, SOURCES[flavour](model, model.flavours[flavour], asked)


def inputs_of(model: MlflowModel, source: ModelSource) -> tuple[InputSpec, ...]:
    """What the signature says of the source's inputs; nothing where the source's own file says it better. Raises BadInput."""
    signed = model.inputs
    columns = bool(signed) and all(one.column for one in signed)
    if not signed or (columns and source.kind not in TABLES) or any(-1 in one.shape[1:] for one in signed):
        return ()
    names = [one.name for one in signed]
    if len(signed) == 1 and not signed[0].column and (not names[0] or source.kind in BOOSTED):
        # A matrix of a boosted ensemble has the name that callers use, which is none of the model's.
        if source.kind == "onnx":
            return ()
        names = [names[0] or ONLY_INPUT]
    if not all(names):
        return ()
    return tuple(_spec(one, name, source, model) for one, name in zip(signed, names, strict=True))


def _spec(signed: SignedInput, name: str, source: ModelSource, model: MlflowModel) -> InputSpec:
    if signed.datatype is None:
        raise BadInput(
            f"its signature's input {name} is {signed.kind}, which is no tensor",
            where=model.where,
            remedy="list the inputs in the document, with name, datatype and shape",
        )
    datatype = signed.datatype
    if source.kind in BOOSTED and datatype is not Datatype.BYTES:
        datatype = Datatype.FP32  # what these libraries compute with, and all that their ONNX form takes
    elif source.kind == "sklearn" and datatype is Datatype.INT32:
        datatype = Datatype.INT64
    return InputSpec(name=name, datatype=datatype, shape=signed.shape)


def _onnx(model: MlflowModel, settings: Settings, _: MlflowSource) -> ModelSource:
    return ModelSource(onnx=str(model.inside(settings["data"])))


def _sklearn(model: MlflowModel, settings: Settings, asked: MlflowSource) -> ModelSource:
    file = _readable(model, settings["pickled_model"], asked, "serialization_format='skops'")
    return ModelSource(sklearn=SklearnSource(file=file, allow_pickle=asked.allow_pickle))


def _xgboost(model: MlflowModel, settings: Settings, _: MlflowSource) -> ModelSource:
    return ModelSource(xgboost=str(model.inside(settings["data"])))


def _lightgbm(model: MlflowModel, settings: Settings, asked: MlflowSource) -> ModelSource:
    file = str(model.inside(settings["data"]))
    if Path(file).suffix != ".lgb":
        file = _readable(model, settings["data"], asked, "its booster_")
    return ModelSource(lightgbm=LightgbmSource(file=file, allow_pickle=asked.allow_pickle))


def _catboost(model: MlflowModel, settings: Settings, _: MlflowSource) -> ModelSource:
    kind = settings.get("save_format", "cbm")
    file = str(model.inside(settings["data"]))
    return ModelSource(onnx=file) if kind == "onnx" else ModelSource(catboost=file)


def _pytorch(model: MlflowModel, settings: Settings, asked: MlflowSource) -> ModelSource:
    folder = Path(str(settings.get("model_data", "data")))
    if (model.inside(folder) / "model.pt2").exists():
        return ModelSource(pt2=str(model.inside(folder / "model.pt2")))
    file = _readable(model, folder / "model.pth", asked, "serialization_format='pt2'")
    code = str(model.inside(settings["code"])) if settings.get("code") else str(model.folder)
    return ModelSource(pytorch=PytorchSource(state_dict=file, code=code, allow_pickle=True))


def _keras(model: MlflowModel, settings: Settings, _: MlflowSource) -> ModelSource:
    if settings.get("saved_model_dir"):
        return ModelSource(saved_model=str(model.inside(settings["saved_model_dir"])))
    folder = Path(str(settings.get("data", "data")))
    found = next((name for name in ("model.keras", "model.h5") if (model.folder / folder / name).exists()), "model")
    file = model.inside(folder / found)
    return ModelSource(saved_model=str(file)) if file.is_dir() else ModelSource(keras=KerasSource(file=str(file)))


def _readable(model: MlflowModel, name: object, asked: MlflowSource, better: str) -> str:
    """The file, where it may be read. Raises BadInput for a pickle that nobody allowed."""
    file = model.inside(name)
    if not asked.allow_pickle and file.suffix != ".skops":
        raise BadInput(f"{file.name} {PICKLED}", where=model.where, remedy=f"log it with {better}, {TRUST}")
    return str(file)


# The first that a model has is taken: what is data already before what must be converted.
SOURCES: dict[str, Callable[[MlflowModel, Settings, MlflowSource], ModelSource]] = {
    "onnx": _onnx,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
    "sklearn": _sklearn,
    "pytorch": _pytorch,
    "tensorflow": _keras,
    "keras": _keras,
}
