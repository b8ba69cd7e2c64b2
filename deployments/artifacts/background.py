"""The rows that a version's rows are explained against, among its files. What scores with a version never reads them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import BadArtifact
from cluster.findings import first_finding
from deployments.artifacts.manifest import BACKGROUND, EXPLAIN, REMEDY, REPORT
from deployments.artifacts.samples import read_samples
from deployments.artifacts.version_files import VersionFiles, VersionReader, reader_of
from deployments.engines.arrays import load_arrays, save_arrays
from deployments.explain.form import Background, ExplainMethod

FORMAT = 1


class BackgroundSummary(BaseModel):
    """explain.json: all of a Background but its rows, which are in background.npz by input where there are some."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    rows: int
    classes: bool
    works: tuple[ExplainMethod, ...] | None
    why_none: str = ""
    left_out: tuple[str, ...] = ()


def save_background(folder: Path, background: Background) -> None:
    """Writes explain.json, and background.npz where there are rows. Raises OSError."""
    summary = BackgroundSummary(
        rows=background.count,
        classes=background.classes,
        works=background.works,
        why_none=background.why_none,
        left_out=background.left_out,
    )
    (folder / EXPLAIN).write_text(summary.model_dump_json(indent=2), encoding="utf-8")
    if background.count:
        save_arrays(folder / BACKGROUND, background.rows)


def read_background(version: Path | VersionFiles) -> Background:
    """The background of a version; its sample rows where it was built before there was one.

    Raises BadArtifact where it makes no sense; of a sealed one Forbidden, Unreachable.
    """
    files = reader_of(version)
    where, arrays = f"{files.where}/{EXPLAIN}", f"{files.where}/{BACKGROUND}"
    if not files.has(EXPLAIN):
        return Background(read_samples(version).inputs, classes=_tells_classes(files))
    try:
        summary = BackgroundSummary.model_validate_json(files.read(EXPLAIN))
    except ValidationError as error:
        found = first_finding(error)
        raise BadArtifact(f"bad explain.json: {found.field} {found.words}", where=where, remedy=REMEDY) from error
    if summary.format != FORMAT:
        raise BadArtifact(
            f"explain.json of format {summary.format} is unknown",
            where=where,
            remedy="use the Headrace release that built it",
        )
    try:
        rows = load_arrays(io.BytesIO(files.read(BACKGROUND))) if summary.rows else {}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadArtifact(f"bad background rows: {error}", where=arrays, remedy=REMEDY) from error
    if {len(value) for value in rows.values()} - {summary.rows}:
        raise BadArtifact(f"there are not {summary.rows} background rows", where=arrays, remedy=REMEDY)
    return Background(rows, summary.classes, summary.works, summary.why_none, summary.left_out)


def _tells_classes(files: VersionReader) -> bool:
    """As the report says; where nothing does, as an answer's own looks say."""
    try:
        told = orjson.loads(files.read(REPORT)) if files.has(REPORT) else None
    except (OSError, orjson.JSONDecodeError):
        return True
    return not isinstance(told, dict) or told.get("task") != "regression"
