"""Worker: hands a version of ours to MLflow, as a version of a registered model with the flavour onnx."""

from __future__ import annotations

from typing import Any

import mlflow
import mlflow.onnx
import numpy as np
import onnx
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema
from mlflow.types import TensorSpec as MlflowTensor

from cluster.signature import Signature, TensorSpec
from deployments.builder.sources.mlflow_models.fetch import explained
from deployments.builder.worker import serve
from deployments.engines.datatypes import NUMPY


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file (model.onnx), name (the registered model's), tracking_uri, signature, kept (texts to keep as its metadata).

    Answers with the version's number and its run.
    """
    if job["tracking_uri"]:
        mlflow.set_tracking_uri(job["tracking_uri"])
        mlflow.set_registry_uri(job["tracking_uri"])
    signature = Signature.model_validate(job["signature"])
    try:
        with mlflow.start_run(run_name=job["kept"]["headrace_version"]) as run:
            info = mlflow.onnx.log_model(
                onnx.load(job["file"]),
                name="model",
                registered_model_name=job["name"],
                signature=ModelSignature(inputs=_schema(signature.inputs), outputs=_schema(signature.outputs)),
                metadata=job["kept"],
                pip_requirements=["onnxruntime"],
            )
    except MlflowException as error:
        raise explained(error, f"models:/{job['name']}") from error
    return {"name": job["name"], "version": str(info.registered_model_version), "run_id": run.info.run_id}


def _schema(specs: tuple[TensorSpec, ...]) -> Schema:
    return Schema([MlflowTensor(_dtype(spec), spec.shape, spec.name) for spec in specs])


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    dtype: np.dtype[Any] = NUMPY[spec.datatype]
    return dtype


if __name__ == "__main__":
    serve(step)
