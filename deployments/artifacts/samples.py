"""Sample rows: what a version was seen to score, replayed when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.errors import BadArtifact
from deployments.artifacts.manifest import REMEDY, SAMPLES
from deployments.engines.datatypes import Array


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows that a version was seen to score: inputs and the answers they must give, all with the same n rows."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def read_samples(path: Path) -> Samples:
    """Reads the sample rows of the artifact at `path`. Raises BadArtifact."""
    file = path / SAMPLES
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise BadArtifact(f"bad sample rows: {error}", where=str(file), remedy=REMEDY) from error
    return Samples(inputs=_with_prefix(arrays, "in."), outputs=_with_prefix(arrays, "out."))


def save_samples(file: Path, samples: Samples) -> None:
    """Writes them as one file without pickle."""
    arrays = {f"in.{name}": value for name, value in samples.inputs.items()}
    arrays |= {f"out.{name}": value for name, value in samples.outputs.items()}
    # Object arrays would need pickle: BYTES are kept as fixed-width strings with their lengths.
    for name in [name for name, value in arrays.items() if value.dtype == np.object_]:
        value = arrays.pop(name)
        joined = b"".join(value.ravel().tolist())
        arrays[f"{name}.bytes"] = np.frombuffer(joined, dtype=np.uint8)
        arrays[f"{name}.lengths"] = np.array([len(item) for item in value.ravel().tolist()], dtype=np.int64).reshape(value.shape)
    with file.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def _with_prefix(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for key, value in arrays.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.endswith(".bytes"):
            continue
        if name.endswith(".lengths"):
            found[name.removesuffix(".lengths")] = _split_bytes(arrays[key.removesuffix(".lengths") + ".bytes"], value)
        else:
            found[name] = value
    return found


def _split_bytes(joined: Array, lengths: Array) -> Array:
    ends = np.cumsum(lengths.ravel())
    data = joined.tobytes()
    items = np.empty(lengths.size, dtype=np.object_)
    items[:] = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.ravel().tolist(), strict=True)]
    return items.reshape(lengths.shape)
