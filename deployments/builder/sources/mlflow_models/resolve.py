"""`source: mlflow` as one of the other sources: which version is meant is asked once, at import, and kept with what is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from pydantic import ValidationError

from cluster.errors import BadInput, NotFound
from deployments.artifacts.manifest import file_digest, read_manifest
from deployments.builder.sources.mlflow_models.example import example_rows
from deployments.builder.sources.mlflow_models.flavours import inputs_of, source_of
from deployments.builder.sources.mlflow_models.mlmodel import read_mlmodel
from deployments.builder.spec import BuildSpec, Evaluate, MlflowSource
from deployments.builder.worker import run_worker
from deployments.engines.load import MODEL_FILES

EXAMPLE_FILE = "input_example.npz"
# MLflow reports its use unless it is told not to, and tries a server that is away for minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def resolve(
    spec: BuildSpec, base: Path, work: Path, log: Path, progress: Callable[[str], None]
) -> tuple[BuildSpec, dict[str, Any]]:
    """Brings the model that `spec.source.mlflow` means into `work`. Returns the section with the source that it is, and where it
    came from; with another source the section itself, and nothing.

    The document's own inputs and rows win over MLflow's signature and input example. Raises NotFound, Unreachable or BadInput.
    """
    asked = spec.source.mlflow
    if asked is None:
        return spec, {}
    folder, told = _local(asked, base) or _fetched(asked, base, work, log, progress)
    model = read_mlmodel(folder)
    flavour, source = source_of(model, asked)
    version = f" version {told['version']}" if "version" in told else ""
    progress(f"{asked.uri} is{version} {model.facts.get('model_id', '')} ({flavour})".replace("  ", " "))
    changes: dict[str, Any] = {"source": source, "inputs": spec.inputs or inputs_of(model, source)}
    if source.pytorch and not changes["inputs"]:
        raise BadInput(
            "its signature does not say what the network takes",
            where=model.where,
            remedy="list inputs in the document, or log it with signature=infer_signature(...)",
        )
    if spec.evaluate is None and model.example is not None:
        rows = example_rows(model.example, changes["inputs"])
        if isinstance(rows, str):
            progress(f"the input example is not used: {rows}")
        else:
            np.savez(work / EXAMPLE_FILE, **_storable(rows))
            changes["evaluate"] = Evaluate(data=str(work / EXAMPLE_FILE))
    provenance = {"uri": _without_password(asked.uri), "flavour": flavour, **model.facts, **told, "sha256": file_digest(folder)}
    if asked.tracking_uri:
        provenance["tracking_uri"] = _without_password(asked.tracking_uri)
    return _checked(spec, changes, asked), provenance


def push(folder: Path, version: str, name: str, *, tracking_uri: str, base: Path, log: Path) -> dict[str, Any]:
    """Hands the artifact in `folder`, called `version`, to MLflow, as a version of the registered model `name`.

    Blocks for seconds. Returns its name, version and run_id. Raises BadInput where it is no ONNX, NotFound or Unreachable.
    """
    manifest = read_manifest(folder)
    if manifest.seal is not None:
        raise BadInput(
            "is sealed, and MLflow would keep it in clear",
            where=version,
            remedy="send it to a registry as it is (`headrace model push MODEL HOST/NAME`), or build it without a seal",
        )
    if manifest.engine != "onnx":
        raise BadInput(
            f"is served by engine: {manifest.engine}",
            where=version,
            remedy="only versions of engine: onnx can be handed to MLflow",
        )
    if manifest.source.get("kind") == "huggingface":
        raise BadInput(
            "reads text by its tokenizer, which MLflow's flavour onnx has no place for",
            where=version,
            remedy="log the transformers model itself by mlflow.transformers",
        )
    where = MlflowSource(uri=f"models:/{name}", tracking_uri=tracking_uri)
    if not tracking_uri.startswith("sqlite:///"):  # a store that is named may be made
        _refuse_no_store(where, base)
    file = folder / MODEL_FILES["onnx"]
    return run_worker(
        "sources.mlflow_models.push",
        {
            "file": str(file),
            "name": name,
            "tracking_uri": tracking_uri,
            "signature": manifest.signature.model_dump(mode="json"),
            "kept": {"headrace_version": version, "sha256": file_digest(file)},
        },
        what=f"handing {version} to MLflow",
        log=log,
        environment=_environment(),
        extra="mlflow",
        folder=base,
    )


def _local(asked: MlflowSource, base: Path) -> tuple[Path, dict[str, Any]] | None:
    """A folder on this machine, which needs no MLflow; None where the URI is none."""
    if ":/" in asked.uri and not asked.uri.startswith("file:"):
        return None
    folder = base / urlsplit(asked.uri).path if asked.uri.startswith("file:") else base / asked.uri
    if not folder.is_dir():
        raise NotFound("no such folder", where=str(folder), remedy="correct source.mlflow.uri")
    return folder, {}


def _fetched(
    asked: MlflowSource, base: Path, work: Path, log: Path, progress: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    _refuse_no_store(asked, base)
    progress(f"ask MLflow for {asked.uri}")
    target = work / "mlflow"
    target.mkdir()
    told = run_worker(
        "sources.mlflow_models.fetch",
        {"uri": asked.uri, "tracking_uri": asked.tracking_uri, "target": str(target)},
        what=f"asking MLflow for {asked.uri}",
        log=log,
        environment=_environment(),
        extra="mlflow",
        folder=base,
    )
    folder = Path(told.pop("folder"))
    if not folder.resolve().is_relative_to(target.resolve()):
        raise BadInput("its files came to another place than they were told to", where=asked.uri, remedy="report it")
    return folder, told


def _refuse_no_store(asked: MlflowSource, base: Path) -> None:
    """Raises BadInput or NotFound where MLflow would make an empty store of its own and look in that."""
    store = asked.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not store and not (base / "mlflow.db").exists() and not (base / "mlruns").exists():
        raise BadInput(
            "no tracking server or store is named",
            where=asked.uri,
            remedy="set source.mlflow.tracking_uri, or MLFLOW_TRACKING_URI in the environment",
        )
    file = base / store.removeprefix("sqlite:///")
    if store.startswith("sqlite:///") and not file.exists():
        raise NotFound("no such store", where=str(file), remedy="correct source.mlflow.tracking_uri: sqlite:////FOLDER/mlflow.db")


def _environment() -> dict[str, str]:
    """What the user sets himself stands."""
    return {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}


def _storable(rows: dict[str, Any]) -> dict[str, Any]:
    """Text as numpy keeps it without pickling."""
    return {name: value.astype(np.bytes_) if value.dtype == np.object_ else value for name, value in rows.items()}


def _checked(spec: BuildSpec, changes: dict[str, Any], asked: MlflowSource) -> BuildSpec:
    """The section with its changes, checked as one that a person wrote."""
    try:
        return BuildSpec(**{name: getattr(spec, name) for name in type(spec).model_fields} | changes)
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise BadInput(said, where=f"build, with {asked.uri}", remedy="change the document for this flavour") from error


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri
