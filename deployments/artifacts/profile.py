"""A version's profile among its files. Who scores with a version reads it apart from the others, from where the artifact lies."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cluster.errors import BadArtifact
from cluster.findings import first_finding
from deployments.artifacts.manifest import PROFILE, PROFILE_ARRAYS, REMEDY
from deployments.artifacts.version_files import VersionFiles, open_version, reader_of
from deployments.engines.datatypes import Array
from deployments.profiles.form import (
    FORMAT,
    OUTLIER_ARRAYS,
    FeatureKind,
    OutlierArrays,
    Profile,
    ProfileSummary,
    TensorProfile,
)
from deployments.profiles.numbers import ARRAYS, CODES, NumberColumns
from deployments.profiles.outliers import fits

OUTLIERS = "outliers"  # before the names of its arrays: no tensor's key has one part


def save_profile(folder: Path, profile: Profile) -> None:
    """Writes profile.json and profile.npz, whose arrays are called by tensor and field: `input.image.counts`. Raises OSError."""
    (folder / PROFILE).write_text(profile.summary.model_dump_json(indent=2), encoding="utf-8")
    with zipfile.ZipFile(folder / PROFILE_ARRAYS, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, columns in profile.numbers.items():
            for name in ARRAYS:
                with archive.open(f"{key}.{name}.npy", "w") as member:
                    np.lib.format.write_array(member, getattr(columns, name), allow_pickle=False)
        if profile.outliers is not None:
            for name in OUTLIER_ARRAYS:
                with archive.open(f"{OUTLIERS}.{name}.npy", "w") as member:
                    np.lib.format.write_array(member, getattr(profile.outliers, name), allow_pickle=False)


def read_profile(version: Path | VersionFiles) -> Profile | None:
    """Reads the profile of a version; None where it has none. Raises BadArtifact where it makes no sense; of a sealed one
    Forbidden, Unreachable."""
    files = reader_of(version)
    if not files.has(PROFILE):
        return None
    try:
        told, arrays = files.read(PROFILE), files.read(PROFILE_ARRAYS)
    except OSError as error:
        raise BadArtifact(f"its profile can't be read: {error}", where=files.where, remedy=REMEDY) from error
    return _parsed(told, arrays, files.where)


def fetch_profile(uri: str, digest: str) -> Profile | None:
    """The profile of the artifact at `uri`, alone, parsed from the bytes that were verified; None where it has none.

    Raises BadArtifact where it is not what was registered or makes no sense, Unreachable where the place can't be asked,
    Forbidden where it is sealed and no key of this machine opens it.
    """
    return read_profile(open_version(uri, digest))


def _parsed(told: bytes, arrays: bytes, where: str) -> Profile:
    try:
        summary = ProfileSummary.model_validate_json(told)
    except ValidationError as error:
        finding = first_finding(error)
        raise BadArtifact(f"bad profile: {finding.field} {finding.words}", where=f"{where}/{PROFILE}", remedy=REMEDY) from error
    if summary.format != FORMAT:
        raise BadArtifact(
            f"a profile of format {summary.format} is unknown",
            where=f"{where}/{PROFILE}",
            remedy="use the Headrace release that built it",
        )
    where = f"{where}/{PROFILE_ARRAYS}"
    try:
        with np.load(io.BytesIO(arrays), allow_pickle=False) as archive:
            numbers = {
                tensor.key: NumberColumns(**{name: archive[f"{tensor.key}.{name}"] for name in ARRAYS})
                for tensor in summary.tensors
                if tensor.kind is FeatureKind.NUMBERS
            }
            found = {name: archive[f"{OUTLIERS}.{name}"] for name in OUTLIER_ARRAYS} if summary.held_out else None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadArtifact(f"bad profile: {error}", where=where, remedy=REMEDY) from error
    for tensor in summary.tensors:
        _check(tensor, numbers.get(tensor.key), where)
    outliers = None if found is None else OutlierArrays(**found)
    if outliers is not None and not fits(summary.tensors, outliers):
        raise BadArtifact("bad profile: what tells outliers does not fit its features", where=where, remedy=REMEDY)
    return Profile(summary, numbers, outliers)


def _check(tensor: TensorProfile, columns: NumberColumns | None, where: str) -> None:
    """Raises BadArtifact where arrays and summary contradict each other."""
    found = [len(tensor.categories)] if columns is None else [len(_array(columns, name)) for name in ARRAYS]
    wide = columns is None or columns.counts.shape[1:] == (CODES,)
    if set(found) != {tensor.profiled} or not wide:
        raise BadArtifact(f"bad profile: {tensor.key} has not the features that it tells", where=where, remedy=REMEDY)


def _array(columns: NumberColumns, name: str) -> Array:
    found: Array = getattr(columns, name)
    return found
