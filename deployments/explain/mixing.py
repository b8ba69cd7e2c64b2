"""Rows that are mixed of the one to explain and of those it is compared with, and what the version says to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Signature
from deployments.engines.datatypes import Array
from deployments.explain.features import FeatureGroups, Places, RowShapes
from deployments.explain.form import Floats, OutOfTime, Score
from deployments.explain.targets import ExplainTarget

Masks = npt.NDArray[np.bool_]

REMEDY = "put features that only make sense together into a group (explain.groups), or give another baseline (explain.baseline)"


@dataclass(frozen=True, slots=True)
class Mixture:
    """One row and b others, by input as [1, d] and [b, d], flat, and the groups in which their values are swapped.

    `columns` are by input the groups of its values: a slice where they lie as the values do. `bits` are by input those of the
    others and what they are different from the row's, none for text.
    """

    row: Mapping[str, Array]
    others: Mapping[str, Array]
    shapes: RowShapes
    groups: FeatureGroups
    columns: Mapping[str, slice | Places]
    bits: Mapping[str, tuple[Array, Array]]

    def __len__(self) -> int:
        return len(next(iter(self.others.values())))

    def mixed(self, masks: Masks, which: Places) -> dict[str, Array]:
        """n rows: groups [n, G] of the row where `masks` says so, and of the other row `which` [n] where not."""
        tensors: dict[str, Array] = {}
        for name, columns in self.columns.items():
            mask = masks[:, columns] if isinstance(columns, slice) else masks.take(columns, axis=1)
            if name in self.bits:
                # By bits: ten times as fast as to choose value by value, which a processor can't foresee.
                others, unlike = self.bits[name]
                mixed: Array = unlike.take(which, axis=0)
                np.multiply(mixed, mask, out=mixed)
                np.bitwise_xor(mixed, others.take(which, axis=0), out=mixed)
                made = mixed.view(self.row[name].dtype)
            else:
                made = self.others[name].take(which, axis=0)
                np.copyto(made, self.row[name], where=mask)
            tensors[name] = made.reshape(len(which), *self.shapes[name])
        return tensors

    def differing(self) -> Masks:
        """Which groups of each other row differ from the row's at all, [b, G]. Those that don't can change nothing."""
        found = np.zeros((len(self), len(self.groups)), np.bool_)
        for name, columns in self.columns.items():
            row, others = self.row[name], self.others[name]
            unlike = np.asarray(others != row, dtype=np.bool_)
            if row.dtype.kind == "f":
                unlike &= ~(np.isnan(others) & np.isnan(row))
            if isinstance(columns, slice):
                found[:, columns] |= unlike
            else:
                np.logical_or.at(found.T, columns, unlike.T)
        return found


def mixture(
    signature: Signature, row: Mapping[str, Array], others: Mapping[str, Array], shapes: RowShapes, groups: FeatureGroups
) -> Mixture:
    """`row` holds one row of each input, `others` b rows."""
    names = [spec.name for spec in signature.inputs]
    one = {name: np.ascontiguousarray(row[name]).reshape(1, -1) for name in names}
    flat = {name: np.ascontiguousarray(others[name]).reshape(len(others[name]), -1) for name in names}
    bits = {name: _bits(one[name], flat[name]) for name in names if one[name].dtype != np.object_}
    return Mixture(one, flat, shapes, groups, {name: _as_slice(groups.of[name]) for name in names}, bits)


def _bits(row: Array, others: Array) -> tuple[Array, Array]:
    """The bits of the others, and where these are not the row's, [b, d]."""
    whole = np.dtype(f"u{row.dtype.itemsize}")
    theirs = others.view(whole)
    return theirs, theirs ^ row.view(whole)


def _as_slice(of: Places) -> slice | Places:
    in_turn = len(of) > 0 and bool((np.diff(of) == 1).all())
    return slice(int(of[0]), int(of[-1]) + 1) if in_turn else of


@dataclass(slots=True)
class Evaluator:
    """Scores mixtures in batches of at most `batch_rows` rows, counts them, and ends in time: `stop_at` is one of `clock`.

    So many `rows_at_stake` may be scored for nothing where it comes too early for what is found in all of them together.
    """

    score: Score
    target: ExplainTarget
    batch_rows: int
    rows_at_stake: int
    stop_at: float | None
    clock: Callable[[], float]
    evaluations: int = field(default=0)

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.stop_at is not None and self.clock() >= self.stop_at

    def of_rows(self, tensors: Mapping[str, Array]) -> Floats | None:
        """The target of n rows, [n]; None where the deadline passed first. Raises BadInput where these can't be scored."""
        rows = len(next(iter(tensors.values())))
        found = np.empty(rows)
        for start in range(0, rows, self.batch_rows):
            if self.late:
                return None
            part = {name: value[start : start + self.batch_rows] for name, value in tensors.items()}
            try:
                found[start : start + self.batch_rows] = self.target.values(self.answers(part))
            except OutOfTime:
                return None
        if not np.isfinite(found).all():
            raise BadInput("the version answers with no number to rows mixed of this one and its baseline", remedy=REMEDY)
        return found

    def answers(self, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        """One batch, scored and counted. Raises BadInput where it can't be scored."""
        self.evaluations += len(next(iter(tensors.values())))
        try:
            return self.score(tensors)
        except (BadInput, EngineFailure) as error:
            raise BadInput(
                f"the version can't score rows mixed of this one and its baseline: {error.what}", remedy=REMEDY
            ) from error

    def values(self, mixture: Mixture, masks: Masks, which: Places) -> Floats | None:
        """The target of n mixtures, [n], mixed a batch at a time; None where the deadline passed first. Raises BadInput."""
        found = np.empty(len(which))
        for start in range(0, len(which), self.batch_rows):
            part = slice(start, start + self.batch_rows)
            scored = self.of_rows(mixture.mixed(masks[part], which[part]))
            if scored is None:
                return None
            found[part] = scored
        return found
