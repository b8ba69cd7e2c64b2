"""A version's profile among its files. What serves a version never reads it: its bytes are checked with the others', no more."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cluster.errors import BadArtifact
from cluster.findings import first_finding
from deployments.artifacts.manifest import PROFILE, PROFILE_ARRAYS, REMEDY
from deployments.engines.datatypes import Array
from deployments.profiles.form import FORMAT, FeatureKind, Profile, ProfileSummary, TensorProfile
from deployments.profiles.numbers import ARRAYS, CODES, NumberColumns


def save_profile(folder: Path, profile: Profile) -> None:
    """Writes profile.json and profile.npz, whose arrays are called by tensor and field: `input.image.counts`. Raises OSError."""
    (folder / PROFILE).write_text(profile.summary.model_dump_json(indent=2), encoding="utf-8")
    with zipfile.ZipFile(folder / PROFILE_ARRAYS, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, columns in profile.numbers.items():
            for name in ARRAYS:
                with archive.open(f"{key}.{name}.npy", "w") as member:
                    np.lib.format.write_array(member, getattr(columns, name), allow_pickle=False)


def read_profile(folder: Path) -> Profile | None:
    """Reads the profile of the artifact at `folder`; None where it has none. Raises BadArtifact where it makes no sense."""
    file, arrays = folder / PROFILE, folder / PROFILE_ARRAYS
    if not file.exists():
        return None
    try:
        summary = ProfileSummary.model_validate_json(file.read_bytes())
    except ValidationError as error:
        found = first_finding(error)
        raise BadArtifact(f"bad profile: {found.field} {found.words}", where=str(file), remedy=REMEDY) from error
    if summary.format != FORMAT:
        raise BadArtifact(
            f"a profile of format {summary.format} is unknown", where=str(file), remedy="use the Headrace release that built it"
        )
    try:
        with np.load(arrays, allow_pickle=False) as archive:
            numbers = {
                tensor.key: NumberColumns(**{name: archive[f"{tensor.key}.{name}"] for name in ARRAYS})
                for tensor in summary.tensors
                if tensor.kind is FeatureKind.NUMBERS
            }
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadArtifact(f"bad profile: {error}", where=str(arrays), remedy=REMEDY) from error
    for tensor in summary.tensors:
        _check(tensor, numbers.get(tensor.key), arrays)
    return Profile(summary, numbers)


def _check(tensor: TensorProfile, columns: NumberColumns | None, where: Path) -> None:
    """Raises BadArtifact where arrays and summary contradict each other."""
    found = [len(tensor.categories)] if columns is None else [len(_array(columns, name)) for name in ARRAYS]
    wide = columns is None or columns.counts.shape[1:] == (CODES,)
    if set(found) != {tensor.profiled} or not wide:
        raise BadArtifact(f"bad profile: {tensor.key} has not the features that it tells", where=str(where), remedy=REMEDY)


def _array(columns: NumberColumns, name: str) -> Array:
    found: Array = getattr(columns, name)
    return found
