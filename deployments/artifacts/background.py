"""What a version's rows are explained against: rows that its build kept."""

from __future__ import annotations

from pathlib import Path

from deployments.artifacts.samples import read_samples
from deployments.explain.form import Background

ROWS_MOST = 64


def read_background(folder: Path) -> Background:
    """The sample rows of the artifact at `folder`. Raises BadArtifact."""
    return Background({name: value[:ROWS_MOST] for name, value in read_samples(folder).inputs.items()})
