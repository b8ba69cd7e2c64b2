"""Sample rows: what a version was seen to score, replayed when it is loaded."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import BadArtifact
from deployments.artifacts.manifest import REMEDY, SAMPLES
from deployments.artifacts.version_files import VersionFiles, reader_of
from deployments.engines.arrays import load_arrays, save_arrays
from deployments.engines.datatypes import Array


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows that a version was seen to score: inputs and the answers they must give, all with the same n rows."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def read_samples(version: Path | VersionFiles) -> Samples:
    """Reads the sample rows of a version. Raises BadArtifact; of a sealed one Forbidden, Unreachable."""
    files = reader_of(version)
    try:
        arrays = load_arrays(io.BytesIO(files.read(SAMPLES)))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadArtifact(f"bad sample rows: {error}", where=f"{files.where}/{SAMPLES}", remedy=REMEDY) from error
    return Samples(inputs=_with_prefix(arrays, "in."), outputs=_with_prefix(arrays, "out."))


def save_samples(file: Path, samples: Samples) -> None:
    """Writes them as one file without pickle."""
    arrays = {f"in.{name}": value for name, value in samples.inputs.items()}
    save_arrays(file, arrays | {f"out.{name}": value for name, value in samples.outputs.items()})


def _with_prefix(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
