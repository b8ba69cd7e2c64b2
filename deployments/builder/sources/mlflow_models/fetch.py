"""Worker: asks a tracking server or local store of MLflow which version a URI means, and brings its files.

It reads what the store says and copies files; no loader of MLflow's runs. It needs the network, and so has no fence.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from cluster.errors import BadInput, HeadraceError, NotFound, Unreachable
from deployments.builder.worker import serve

MODELS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>[^/]+))?")
FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID or runs:/ID/PATH"


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: uri, tracking_uri (empty for MLflow's own setting), target (an empty folder).

    Answers with the model's folder, and which version was meant."""
    uri = job["uri"]
    try:
        if job["tracking_uri"]:
            # For the whole process: the download looks models up by this setting alone, whatever it is given.
            mlflow.set_tracking_uri(job["tracking_uri"])
            mlflow.set_registry_uri(job["tracking_uri"])
        exact, told = resolve(MlflowClient(), uri)
        folder = download_artifacts(artifact_uri=exact, dst_path=job["target"])
    except (RestException, MlflowException) as error:
        raise explained(error, uri) from error
    except OSError as error:
        raise BadInput(
            f"its files can't be brought: {error}", where=uri, remedy="see that the store's files are there"
        ) from error
    refuse_links(Path(folder), uri)
    return {"folder": folder, **told}


def resolve(client: MlflowClient, uri: str) -> tuple[str, dict[str, Any]]:
    """The URI of exactly one version, and what is known of it. Raises BadInput for a URI of no such form."""
    if uri.startswith("runs:/"):
        run = uri.removeprefix("runs:/").split("/", 1)[0]
        return uri, {"run_id": client.get_run(run).info.run_id}
    found = MODELS.fullmatch(uri)
    if found is None:
        raise BadInput("is no URI of a model", where=uri, remedy=f"use {FORMS}, or a local folder")
    name, alias, version = found["name"], found["alias"], found["version"]
    if alias is None and version is None:
        if re.fullmatch(r"m-[0-9a-f]{32}", name):
            return uri, {"model_id": name}
        raise BadInput("names no version", where=uri, remedy=f"use {FORMS}")
    if alias is not None:
        meant = client.get_model_version_by_alias(name, alias)
    elif version == "latest":
        every = client.search_model_versions(f"name='{name}'", max_results=1, order_by=["version_number DESC"])
        if not every:
            raise NotFound("has no versions", where=uri, remedy="register one, or correct the name")
        meant = every[0]
    elif str(version).isdigit():
        meant = client.get_model_version(name, str(version))
    else:
        raise BadInput(f"names a stage ({version}), which MLflow gave up", where=uri, remedy="use an alias: models:/NAME@ALIAS")
    told = {"name": meant.name, "version": str(meant.version), "run_id": meant.run_id, "alias": alias}
    return f"models:/{meant.name}/{meant.version}", {key: value for key, value in told.items() if value}


def refuse_links(folder: Path, uri: str) -> None:
    """Raises BadInput where the files that came hold a link, which might lead anywhere."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                raise BadInput(f"holds a link ({name})", where=uri, remedy="log the model again, with plain files")


def explained(error: MlflowException, uri: str) -> HeadraceError:
    """What MLflow has against it, as an error of our tree."""
    first = str(error).strip().split("\n", 1)[0]
    if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "not found" in first.lower():
        return NotFound(first, where=uri, remedy="see what there is in MLflow, or set source.mlflow.tracking_uri")
    if "API request to" in first or "connection" in first.lower() or error.error_code == "TEMPORARILY_UNAVAILABLE":
        return Unreachable(
            f"the tracking server does not answer: {first}",
            where=uri,
            remedy="see that it runs; check source.mlflow.tracking_uri",
        )
    return BadInput(f"MLflow refuses: {first}", where=uri, remedy="check the URI and source.mlflow.tracking_uri")


if __name__ == "__main__":
    serve(step)
