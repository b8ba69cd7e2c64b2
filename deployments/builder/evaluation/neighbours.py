"""Whether a row's answer depends on the rows beside it: each is scored alone, together, and beside extreme rows.

The way that a row arrives in, alone or in a batch with whatever else came, must not change its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cluster.errors import HeadraceError
from deployments.builder.evaluation.quality import REGRESSION_TOLERANCE, Task, row_differences
from deployments.engines.answers import decided, score_output
from deployments.engines.datatypes import Array

ROWS, FEWEST_ROWS = 64, 4
# How long the rows are scored one by one.
ALONE_S = 4.0
# How far beyond the largest value of its place an extreme row lies: a wrong unit, milligrams for grams.
BEYOND = 1000.0
# Kernels for other batch sizes sum up in another order. Relative where answers exceed 1.
ROUNDING = 1e-5

Score = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Neighbours(BaseModel):
    """What other rows of the batch did to a row's answer.

    `changed` is the share of rows whose class changed beside any neighbours (for regression, whose answer moved by more than 5 %
    of the spread of the answers), `largest` the largest difference, both in the pair of ways `pair`; `row` is the first that
    changed. `twice` is the largest difference between two answers to the same batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    changed: float = 0.0
    largest: float = 0.0
    pair: str = ""
    row: int | None = None
    twice: float = 0.0
    extreme: bool = True

    @property
    def sentence(self) -> str:
        """What changed, in words."""
        return (
            f"its rows are not independent: {self.changed:.4f} of {self.rows} rows change, row {self.row} first, between"
            f" {self.pair} (by up to {self.largest:.3g})"
        )

    @property
    def steady(self) -> bool:
        """Whether the same batch got the same answer twice."""
        return self.twice == 0


def neighbours(score: Score, inputs: Mapping[str, Array], task: Task) -> Neighbours:
    """Scores the first rows of `inputs` in each way and compares. Raises as `score` does on plain rows; that it fails on extreme
    ones is reported (`extreme` is then False)."""
    have = len(next(iter(inputs.values())))
    few = _first(inputs, min(have, ROWS, FEWEST_ROWS))
    started_s = time.monotonic()
    alone = [score(_first(few, 1))]
    each_s = time.monotonic() - started_s
    count = min(have, ROWS, max(FEWEST_ROWS, int(ALONE_S / max(each_s, 1e-6))))
    rows = _first(inputs, count)
    together = dict(score(rows))
    again = dict(score(rows))
    alone += [score({name: value[i : i + 1] for name, value in rows.items()}) for i in range(1, count)]
    ways = {"alone and together": _joined(alone, together)}
    beside = _beside_extremes(score, rows, count)
    if beside is not None:
        ways["beside extreme rows and beside plain ones"] = beside
    twice = max((float(row_differences(again[name], value).max(initial=0)) for name, value in together.items()), default=0.0)
    found = Neighbours(rows=count, twice=twice, extreme=beside is not None)
    for pair, answers in ways.items():
        apart = _apart(answers, together)
        changed = _changed(answers, together, task, apart)
        worse = (float(changed.mean()), float(apart.max(initial=0)))
        if worse > (found.changed, found.largest):
            row = int(np.flatnonzero(changed)[0]) if changed.any() else None
            found = found.model_copy(update={"changed": worse[0], "largest": worse[1], "pair": pair, "row": row})
    return found


def extreme_rows(rows: Mapping[str, Array]) -> dict[str, Array]:
    """Two rows far beyond the others: numbers 1000 times as large, and as large below 0; whole numbers, truths and text can only
    be the largest and the smallest that were seen, since they may be places in a table."""
    extremes: dict[str, Array] = {}
    for name, value in rows.items():
        if np.issubdtype(value.dtype, np.floating):
            info = np.finfo(value.dtype)  # type: ignore[type-var]
            known = np.abs(np.nan_to_num(value.astype(np.float64)))
            far = np.clip(np.maximum(known.max(axis=0), 1.0) * BEYOND, 0, float(info.max) / 4)
            extremes[name] = np.stack([far, -far]).astype(value.dtype)
        elif value.dtype == np.object_:
            shapeless = value.reshape(len(value), -1)
            lengths = np.array([[len(item) for item in row] for row in shapeless.tolist()]).reshape(shapeless.shape)
            places = np.arange(shapeless.shape[1])
            ends = [shapeless[lengths.argmax(axis=0), places], shapeless[lengths.argmin(axis=0), places]]
            extremes[name] = np.stack(ends).reshape(2, *value.shape[1:])
        else:
            extremes[name] = np.stack([value.max(axis=0), value.min(axis=0)]).astype(value.dtype)
    return extremes


def _beside_extremes(score: Score, rows: Mapping[str, Array], count: int) -> dict[str, Array] | None:
    """The rows' answers with extreme rows before and after them; None where the model fails on those."""
    extremes = extreme_rows(rows)
    batch = {name: np.concatenate([extremes[name], value, extremes[name]]) for name, value in rows.items()}
    try:
        return {name: value[2 : 2 + count] for name, value in score(batch).items()}
    except HeadraceError:
        return None


def _apart(answers: Mapping[str, Array], others: Mapping[str, Array]) -> npt.NDArray[np.float64]:
    return np.asarray(np.max([row_differences(answers[name], value) for name, value in others.items()], axis=0))


def _changed(
    answers: Mapping[str, Array], others: Mapping[str, Array], task: Task, apart: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    name = score_output(others)
    if task == "regression" and name is not None:
        theirs = others[name].astype(np.float64)
        return row_differences(answers[name], others[name]) > max(ROUNDING, REGRESSION_TOLERANCE * float(np.nanstd(theirs)))
    scale = max([1.0, *(float(np.abs(v.astype(np.float64)).max(initial=0)) for v in others.values() if v.dtype != np.object_)])
    # Two scores that are as good as equal may change places by rounding.
    return np.asarray((decided(answers) != decided(others)) & (apart > ROUNDING * scale))


def _first(inputs: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {name: value[:count] for name, value in inputs.items()}


def _joined(parts: list[Mapping[str, Array]], like: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in like}
