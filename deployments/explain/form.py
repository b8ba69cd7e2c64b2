"""What is asked of an explanation, and what it says: plain data, and the one callable that answers.

    explain_rows(score, rows, signature, background, options) -> [Explanation], one a row      (in `explaining.py`)

`score` is a blocking batch call: every input of the signature by name, batch axis first, in; every output out. It may be an
engine's own `score` or a call to a replica. It is called from the thread that explains, one batch of at most `batch_rows` rows
at a time, and may raise what engines raise, or OutOfTime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cluster.errors import NoCapacity
from cluster.signature import Signature
from deployments.engines.datatypes import Array

Floats = npt.NDArray[np.float64]
Score = Callable[[Mapping[str, Array]], Mapping[str, Array]]
# What `gradients_of` an engine gives: see `Differentiable` in `engines/port.py`.
Gradients = Callable[[Mapping[str, Array], str, Array], dict[str, Array]]


class OutOfTime(NoCapacity):
    """What a `score` raises that the deadline met before its answer: the explanation is cut there."""


class ExplainMethod(StrEnum):
    """How it is computed. AUTO picks one by the row's shape, the budget and what the build tried."""

    AUTO = "auto"
    SHAPLEY = "shapley"
    EXACT = "exact"
    OCCLUSION = "occlusion"
    GRADIENTS = "gradients"
    COUNTERFACTUAL = "counterfactual"


class ExplainScale(StrEnum):
    """In what an answer is measured: the log-odds of a class, in nats, or the output's own number."""

    LOG_ODDS = "log_odds"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """What is asked. `read_options` in `asking.py` makes them from a document's or a request's `explain` section.

    `output` names the output to explain, None the first of scores; `label` the class: the place of its score in a row, or the
    class's own name; None is the class that the row is given, and for a counterfactual any other class.
    `scale` None is log-odds where the output holds class probabilities, else raw.
    `groups` maps a name to features that are swapped as one: `age` is an input whole, `image[3,5]` or `features[7]` one value of
    it; features in no group are by themselves. `blocks` is the side of the squares, in pixels, that an image is cut into.
    `baseline` holds inputs in a row's shape, to be used in place of the background rows: all inputs, or some of them.
    `evaluations` is how many rows may be scored for a row explained, `deadline_s` how long all rows of the call may take. A batch
    has at most `batch_rows` rows, 16 MiB, and about as many as take 30 ms, so that whoever waits behind it does not wait long.
    """

    method: ExplainMethod = ExplainMethod.AUTO
    output: str | None = None
    label: int | str | bool | None = None
    scale: ExplainScale | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    blocks: int | None = None
    baseline: Mapping[str, Array] | None = None
    evaluations: int = 10_000
    seed: int = 0
    deadline_s: float | None = None
    batch_rows: int = 2048


@dataclass(frozen=True, slots=True)
class Background:
    """What rows are explained against: up to 64 rows that a build kept, by input, all with the same number of rows b >= 0.

    With no row a caller must give a baseline. `why_none` says why there is none; inputs that were `left_out` are 0, or the empty
    text, in every row. `classes` says whether the version was built to tell classes; `works` are the methods that the build saw
    working on the sample rows, None where it did not try.
    """

    rows: Mapping[str, Array]
    classes: bool = True
    works: tuple[ExplainMethod, ...] | None = None
    why_none: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many rows there are, b."""
        return len(next(iter(self.rows.values()))) if self.rows else 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one row was answered as it was.

    `attributions` and `errors`, a standard error each, are float64 in the shape of the input's row; what a group is worth is
    spread evenly over its features, so that sums hold, and stands whole in `groups` (value, standard error);
    `grouped`, bool in the row's shape, says which values are in one. `strongest_first` in `strongest.py` lists groups and other
    features by their size.
    The sum of all attributions is `answer - baseline` up to `completeness_error`, both in `scale`. `baseline` is the mean answer
    over the `background_rows` that were used; for a counterfactual the answer to the changed row, which `counterfactual` holds,
    and `changed` names its features in the order of their change.
    `too_rough` says that its error is too large to be relied on, `why` the reason in words; empty where it is not.
    """

    method: ExplainMethod
    output: str
    label: int | str | bool | None
    scale: ExplainScale
    baseline: float
    answer: float
    attributions: Mapping[str, Floats]
    errors: Mapping[str, Floats]
    groups: Mapping[str, tuple[float, float]]
    evaluations: int
    background_rows: int
    completeness_error: float
    too_rough: bool = False
    why: str = ""
    counterfactual: Mapping[str, Array] | None = None
    changed: tuple[str, ...] = ()
    grouped: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


class ExplainRows(Protocol):
    """The one callable: `explain_rows` in `explaining.py`."""

    def __call__(
        self,
        score: Score,
        rows: Mapping[str, Array],
        signature: Signature,
        background: Background | None,
        options: ExplainOptions,
        *,
        gradients: Gradients | None = None,
    ) -> list[Explanation]:
        """Explains n rows, by input [n, ...], one by one: a row gets the same numbers whatever rows stand beside it.

        Raises BadInput for options that don't fit the version, RowsRefused, before anything is computed, for rows that can't be
        explained; and whatever `score` raises for the rows themselves. A deadline that passes cuts: what there is by then is
        returned, `too_rough`.
        """
