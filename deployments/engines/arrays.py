"""Named arrays in one `.npz` file without pickle, BYTES among them: joined bytes with the length of each element."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from deployments.engines.datatypes import Array

JOINED, LENGTHS = ".bytes", ".lengths"


def save_arrays(file: Path, arrays: Mapping[str, Array]) -> None:
    """Writes them whatever their names are; `numpy.savez` takes some, `file` for one, as its own arguments. Raises OSError."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in _flat(arrays).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)


def load_arrays(file: Path | IO[bytes]) -> dict[str, Array]:
    """Reads what `save_arrays` wrote, from a file or its bytes.

    Raises OSError, ValueError, EOFError, KeyError or zipfile.BadZipFile for a damaged file.
    """
    with np.load(file, allow_pickle=False) as archive:
        flat = {name: archive[name] for name in archive.files}
    found: dict[str, Array] = {}
    for key, value in flat.items():
        if key.endswith(JOINED) and key.removesuffix(JOINED) + LENGTHS in flat:
            continue
        joined = flat.get(key.removesuffix(LENGTHS) + JOINED) if key.endswith(LENGTHS) else None
        if joined is None:
            found[key] = value
        else:
            found[key.removesuffix(LENGTHS)] = _split(joined, value)
    return found


def _flat(arrays: Mapping[str, Array]) -> dict[str, Array]:
    flat: dict[str, Array] = {}
    for name, value in arrays.items():
        if value.dtype != np.object_:
            flat[name] = value
            continue
        items = value.ravel().tolist()
        flat[name + JOINED] = np.frombuffer(b"".join(items), dtype=np.uint8)
        flat[name + LENGTHS] = np.array([len(item) for item in items], dtype=np.int64).reshape(value.shape)
    return flat


def _split(joined: Array, lengths: Array) -> Array:
    ends = np.cumsum(lengths.ravel())
    data = joined.tobytes()
    items = np.empty(lengths.size, dtype=np.object_)
    items[:] = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.ravel().tolist(), strict=True)]
    return items.reshape(lengths.shape)
