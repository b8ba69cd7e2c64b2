"""The source's own answers, which its import is compared with: together and alone, twice, and beside extreme rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import BadInput
from deployments.builder.evaluation.neighbours import Neighbours, Score, neighbours
from deployments.engines.arrays import load_arrays, save_arrays
from deployments.engines.datatypes import Array

ALONE_ROWS = 8
ALONE, TOGETHER = "alone.", "together."


def record(score: Score, rows: Mapping[str, Array], job: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `job["expected"]`, and answers with what the rows do to each other in the source (`neighbours`)."""
    together = score(rows)
    count = min(ALONE_ROWS, len(next(iter(rows.values()))))
    alone = scored_alone(score, rows, count)
    arrays = {f"{TOGETHER}{name}": value for name, value in together.items()}
    save_arrays(Path(job["expected"]), arrays | {f"{ALONE}{name}": value for name, value in alone.items()})
    return {"neighbours": neighbours(score, rows, job["task"]).model_dump(mode="json")}


@contextlib.contextmanager
def blamed(told: Mapping[str, Any], where: str) -> Iterator[None]:
    """Where the source's rows depend on each other, that is why an export of it for any number of rows fails."""
    try:
        yield
    except BadInput as error:
        found = Neighbours.model_validate(told["neighbours"])
        if not found.changed:
            raise
        raise BadInput(
            f"{found.sentence}, and so it {error.what}",
            where=where,
            remedy="let each row be scored by itself, along the first axis: recurrent layers need batch_first=True",
        ) from error


def read_answers(file: Path) -> dict[str, dict[str, Array]]:
    """What `record` wrote, by the way that the rows came in: `alone` (the first ones) and `together`."""
    found = load_arrays(file)
    return {
        way.removesuffix("."): {name.removeprefix(way): value for name, value in found.items() if name.startswith(way)}
        for way in (ALONE, TOGETHER)
    }


def scored_alone(score: Score, rows: Mapping[str, Array], count: int) -> dict[str, Array]:
    """The answers of the first `count` rows, each scored by itself."""
    parts = [score({name: value[i : i + 1] for name, value in rows.items()}) for i in range(count)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
