"""What every caller of a scorer meets: the question, the answer, the typed failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cluster.errors import HeadraceError, NoCapacity
from cluster.signature import Signature
from cluster.watch.payloads import Payloads
from deployments.drift.version_counting import DrawnRows
from deployments.engines.datatypes import Array
from deployments.explain.form import Explanation
from deployments.scoring.senders import Senders


@dataclass(frozen=True, slots=True)
class Scored:
    """Answers in the order of the rows asked.

    `outputs` has n rows each; rows with an error hold zeros (empty bytes for BYTES). `versions[i]` is the version that
    scored row i, int32. `errors` maps a row's index to its error: BadInput (the row's fault) or EngineFailure (no version
    could score it, found by bisecting). Empty where all went well. `label_keys`, while a rollout wants labels, has a text for
    each row, empty for rows that must not be judged: with `/` and a name of the prediction it is what a label is
    sent under. `payloads` says what of the model's traffic is kept: then the tensors lie as they were given, donated or not.
    `outliers` [n] are p-values, where they were asked for: see `RowOutliers`.
    `drawn` are copies of some rows, on a stream: they count as seen by their versions once they are committed.
    """

    outputs: dict[str, Array]
    versions: npt.NDArray[np.int32]
    errors: dict[int, HeadraceError]
    label_keys: Sequence[str] | None = None
    payloads: Payloads | None = None
    drawn: Sequence[DrawnRows] = ()
    outliers: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """Why `version` answers n rows as it does: an explanation of each, in order."""

    version: int
    explanations: Sequence[Explanation]


class Late(NoCapacity):
    """A version had the call and did not answer in time: nothing is known of its rows, but that it took long is."""


class Scorer(Protocol):
    """The one object through which every caller scores; owns split, shadow, fallback, bisecting and evidence."""

    async def score(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
        senders: Senders | None = None,
    ) -> Scored:
        """Scores n rows; `tensors` have the batch axis first. `keys` (n of them) steer the split; None: drawn at random.

        `version` pins, without split, shadow or evidence. `timeout_s` defaults to the model's own. `donated`: the arrays,
        none of which share memory, are given up; their rows may lie in any order afterwards, which saves copies. `senders` say
        whose the rows are: a rollout under way counts by them, so that none of them alone ends it. A row with NaN,
        where the model refuses it, is that row's BadInput. Raises NotFound (no such model or version is served), BadInput (a
        missing, unknown or wrongly shaped tensor: the whole call is wrong), NoCapacity (transient: no replica, a full queue,
        deadline).
        """

    def signature(self, model: str, version: int | None = None) -> Signature:
        """The signature of the stable version, or of the one given. Raises NotFound."""

    def replicas(self, model: str, version: int) -> int:
        """How many replicas of the version there are, as far as it is known here: at least 1, and 1 where its engine is in this
        process, or nothing is known. Never blocks, and raises nothing."""
