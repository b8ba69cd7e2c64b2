"""Late labels: what an answer gave out so that it can be judged once the truth is known, and what it lost. Pure.

A label key says by itself what it is the key of, so that nothing is kept until the label comes, however late. See decision 12.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import BadInput
from cluster.rollout.checks.labels import LabelCheck, Loss
from cluster.rollout.evidence import Counts
from cluster.rollout.record import Rollout


@dataclass(frozen=True, slots=True)
class LabelKey:
    """Which rollout the answer belongs to, which version gave it, what it was, and to which prediction.

    Written `rollout/version/answer/prediction`. A stream's prediction is `topic/partition/offset`, the same after any replay.
    Outside rollouts the first is 0. The answer is followed by `@` and when it was given, in whole Unix seconds; earlier releases
    do not say it.
    """

    rollout: int
    version: int
    answer: float
    prediction: str
    answered_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> LabelKey:
        """The key that is written so. Raises BadInput."""
        try:
            rollout, version, said, prediction = text.split("/", 3)
            answer, at, when = said.partition("@")
            return cls(int(rollout), int(version), float(answer), prediction, float(int(when)) if at else None)
        except (ValueError, OverflowError):  # of digits without end
            raise BadInput("not a label key", where="key", remedy="send what came with the answer, as it came") from None


def stage_of(rollout: Rollout) -> str:
    """What evidence from labels is filed under: one stage a rollout, since a label may come long after its step."""
    return f"r{rollout.id}.labels"


class Judging(Protocol):
    """What says how far an answer is from its label."""

    @property
    def loss(self) -> Loss:
        """Of classes, or of numbers."""

    @property
    def scale(self) -> float | None:
        """The error of a number that counts as 1."""


def loss(check: Judging, answer: float, label: float) -> float:
    """What the answer lost, 0 to 1."""
    if check.scale is None:
        return float(answer != label)
    share = min(abs(answer - label) / check.scale, 1.0)
    if math.isnan(share):  # the version answered NaN
        return 1.0
    return share * share if check.loss is Loss.SQUARED else share


@dataclass(frozen=True, slots=True)
class LabelsJudged:
    """What a batch of labels came to: evidence by version, and why some were refused. The rest belongs to other rollouts."""

    counts: dict[int, Counts]
    refused: tuple[str, ...]


def judge_labels(rollout: Rollout, check: LabelCheck, labels: Mapping[int, tuple[str, float]]) -> LabelsJudged:
    """Every label on its own, by its place among those that were sent: a bad one never takes others along. A key that comes twice
    counts once."""
    counts: dict[int, Counts] = {}
    seen: set[str] = set()
    refused: list[str] = []
    for number, (text, label) in labels.items():
        try:
            key = LabelKey.parse(text)
        except BadInput as error:  # by its place: what was sent for a key may be anything
            refused.append(f"{error.what}: label {number}")
            continue
        if not math.isfinite(label):
            refused.append(f"not finite: label {number}")
        elif key.rollout == rollout.id and key.version in (rollout.stable, rollout.candidate) and text not in seen:
            seen.add(text)
            one = Counts(labelled=1, loss=loss(check, key.answer, label))
            counts[key.version] = counts.get(key.version, Counts()) + one
    return LabelsJudged(counts, tuple(refused))
