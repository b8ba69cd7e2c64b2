"""Counterfactuals after NICE (doi 10.1007/s10618-023-00930-y): the nearest background row of another class, and as few of its
features as suffice to make the row that class too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from deployments.engines.datatypes import Array
from deployments.explain.features import Places
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.result import GroupValues, nothing
from deployments.explain.targets import Label, classes_of

MOST_PREFIXES = 64


@dataclass(frozen=True, slots=True)
class Changed:
    """The row as it would have to be, by input in a row's shape; the groups that were changed, in turn; what each was worth.

    `row` is None where none was found in time.
    """

    values: GroupValues
    row: Mapping[str, Array] | None
    groups: tuple[int, ...]


def counterfactual(
    mixture: Mixture, evaluator: Evaluator, own: Label, classes: Sequence[Label], answer: float, evaluations: int, wanted: Label
) -> Changed:
    """`own` is the row's class, `classes` those of the other rows, `wanted` the class to reach, None for any but its own.

    The evaluator's target is the class `own`: each swap is the one that lowers it most. Raises BadInput where no other
    row will do.
    """
    unlike = _arrived(classes, own, wanted)
    if not unlike.any():
        raise BadInput(
            "no background row has another class" if wanted is None else "no background row has that class",
            where="explain.class" if wanted is not None else "explain.method",
            remedy="build the version with more varied rows in evaluate.data, or say method: shapley",
        )
    other = int(np.flatnonzero(unlike)[np.argmin(_distances(mixture)[unlike])])
    left = np.flatnonzero(mixture.differing()[other])
    masks = np.ones(len(mixture.groups), np.bool_)
    found = np.zeros(len(mixture.groups))
    changed: list[int] = []
    now, spent = answer, 0
    while len(left):
        # Once the budget allows no more trials one by one, those left go in the order in which they promised to help.
        greedy = spent + len(left) <= evaluations
        counts = np.unique(np.linspace(1, len(left), min(len(left), MOST_PREFIXES)).astype(int)).tolist()
        trials = [left[place : place + 1] for place in range(len(left))] if greedy else [left[:count] for count in counts]
        tried = _tried(mixture, evaluator, masks, trials, other)
        if tried is None:
            return Changed(nothing(len(found), now, 1), None, tuple(changed))
        spent += len(trials)
        values, reached = tried
        arrived = _arrived(reached, own, wanted)
        if not greedy:
            at = int(np.argmax(arrived)) if arrived.any() else len(trials) - 1
            found[trials[at]] = (now - values[at]) / len(trials[at])
            changed += trials[at].tolist()
            masks[trials[at]] = False
            now = float(values[at])
            break
        among = np.flatnonzero(arrived) if arrived.any() else np.arange(len(values))
        best = int(among[values[among].argmin()])
        group = int(left[best])
        found[group] = now - values[best]
        masks[group] = False
        now = float(values[best])
        changed.append(group)
        left = left[np.argsort(values, kind="stable")]
        left = left[left != group]
        if arrived[best]:
            break
    row = {name: value[0] for name, value in mixture.mixed(masks[None, :], np.array([other])).items()}
    return Changed(GroupValues(found, np.zeros(len(found)), now, 1), row, tuple(changed))


def _arrived(classes: Sequence[Label], own: Label, wanted: Label) -> npt.NDArray[np.bool_]:
    """Which have the class that is wanted, where none is any but its own."""
    return np.array([one != own if wanted is None else str(one) == str(wanted) for one in classes], np.bool_)


def _tried(
    mixture: Mixture, evaluator: Evaluator, masks: npt.NDArray[np.bool_], trials: Sequence[Places], other: int
) -> tuple[Floats, list[Label]] | None:
    """The target and the class of the mixture `masks` [G] less each trial's groups; None where the deadline passed first."""
    values: list[Floats] = []
    classes: list[Label] = []
    for start in range(0, len(trials), evaluator.batch_rows):
        if evaluator.late:
            return None
        some = trials[start : start + evaluator.batch_rows]
        part = np.repeat(masks[None, :], len(some), axis=0)
        for place, gone in enumerate(some):
            part[place, gone] = False
        answers = evaluator.answers(mixture.mixed(part, np.full(len(part), other)))
        values.append(evaluator.target.values(answers))
        classes += classes_of(answers)
    return np.concatenate(values), classes


def _distances(mixture: Mixture) -> Floats:
    """Of the row from each other row, [b]: numbers by their share of the range that was seen, texts as like or unlike."""
    total = np.zeros(len(mixture))
    for name, row in mixture.row.items():
        others = mixture.others[name]
        if row.dtype.kind == "f" or row.dtype.kind in "iu":
            every = np.concatenate([others, row]).astype(np.float64)
            span = np.ptp(every, axis=0)
            apart: npt.NDArray[np.float64] = np.abs(every[:-1] - every[-1]) / np.where(span > 0, span, 1)
            total += np.nan_to_num(apart, nan=1.0, posinf=1.0).sum(axis=1)
        else:
            total += np.asarray(others != row, np.float64).sum(axis=1)
    return total
