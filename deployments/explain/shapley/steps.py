"""The rows that walks pass, a batch at a time, and what a version says to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from deployments.engines.datatypes import Array
from deployments.explain.features import Places
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.shapley.orders import Walks


def found_on(mixture: Mixture, evaluator: Evaluator, plan: StepPlan, answer: float, baselines: Floats) -> Floats | None:
    """What each group added on each walk, [w, G]; None where the deadline passed first. `baselines` are the others' answers."""
    walks = plan.walks
    scored: list[Floats] = []
    for tensors in _passed(mixture, plan, evaluator.batch_rows):
        values = evaluator.of_rows(tensors)
        if values is None:
            return None
        scored.append(values)
    # Each walk's values in a row of their own: the other row's answer, those of the rows between, and the row's.
    path = np.full((len(walks.length), len(mixture.groups) + 1), answer)
    path[:, 0] = np.where(walks.length > 0, baselines[walks.which], answer)
    if scored:
        path[plan.walk[plan.place], plan.turn + 1] = np.concatenate(scored)
    found = np.empty((len(walks.length), len(mixture.groups)))
    found[np.arange(len(found))[:, None], walks.order] = np.diff(path, axis=1)
    return found


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All walks at once, step by step: the longest first, so that those that still go on at a step are the first `going` [s].

    `walk` [w] is which walk is at a place, `which` [w] its other row. Of each step of each walk, in the order in which rows are
    made, [e]: the `place`, the `turn` (0 is a walk's first) and the `group` that is swapped in. A walk's last step leads to the
    row itself and is left out. What it says of each input is made with the first row that is walked by it.
    """

    walks: Walks
    walk: Places
    which: Places
    going: Places
    place: Places
    turn: Places
    group: Places
    _moves: dict[str, _Moves] = field(default_factory=dict)

    @classmethod
    def of(cls, walks: Walks) -> StepPlan:
        walk = np.argsort(-walks.length, kind="stable")
        inner = np.maximum(walks.length[walk] - 1, 0)
        goes = np.arange(int(inner.max(initial=0)))[:, None] < inner[None, :]
        turn, place = np.nonzero(goes)
        return cls(walks, walk, walks.which[walk], np.count_nonzero(goes, axis=1), place, turn, walks.order[walk[place], turn])

    def moves(self, name: str, of: Places, groups: int) -> _Moves:
        """Those of one input, whose values belong to the groups `of`."""
        if (known := self._moves.get(name)) is None:
            known = self._moves[name] = _Moves.of(self, of, groups)
        return known


def _passed(mixture: Mixture, plan: StepPlan, batch_rows: int) -> Iterator[dict[str, Array]]:
    """The rows of the plan, by input, in the plan's order, at most `batch_rows` at a time: valid until the next are asked for.

    A row differs from the walk's one before by one group: so that is written, and the row copied, and nothing compared.
    """
    inputs = [_Moving.of(mixture, name, plan, min(batch_rows, len(plan.place))) for name in mixture.others]
    full = 0
    for step, going in enumerate(plan.going.tolist()):
        for one in inputs:
            one.flat[one.places[step]] = one.values[step]
        if full + going > batch_rows:
            # The walks of one step are cut where they must be: then some are made of it later.
            done = 0
            while done < going:
                some = min(going - done, batch_rows - full)
                for one in inputs:
                    one.made[full : full + some] = one.state[done : done + some]
                done, full = done + some, full + some
                if full == batch_rows:
                    yield _shaped(mixture, inputs, full)
                    full = 0
            continue
        for one in inputs:
            one.made[full : full + going] = one.state[:going]
        full += going
    if full:
        yield _shaped(mixture, inputs, full)


def _shaped(mixture: Mixture, inputs: Sequence[_Moving], rows: int) -> dict[str, Array]:
    return {one.name: one.made[:rows].reshape(rows, *mixture.shapes[one.name]) for one in inputs}


@dataclass(frozen=True, slots=True)
class _Moves:
    """Of one input, which values of the row are written in all steps, `column` [v], and by step which `parts` of these, and to
    which flat `places` of the state. Lists: a step must cost no more than a few calls."""

    column: Places
    parts: list[slice]
    places: list[Places]

    @classmethod
    def of(cls, plan: StepPlan, of: Places, groups: int) -> _Moves:
        by_group = np.argsort(of, kind="stable")
        sizes = np.bincount(of, minlength=groups)
        ends = np.cumsum(plan.going)
        if (sizes == 1).all():
            column, place = by_group[plan.group], plan.place
        else:
            # The places of all values of the first step's first group, then of the next walk's, and so on.
            count = sizes[plan.group]
            last = np.cumsum(count)
            within = np.arange(int(last[-1]) if len(last) else 0) - np.repeat(last - count, count)
            column = by_group[np.repeat((np.cumsum(sizes) - sizes)[plan.group], count) + within]
            place, ends = np.repeat(plan.place, count), last[ends - 1]
        places = place * len(of) + column
        parts = [slice(*part) for part in pairwise([0, *ends.tolist()])]
        return cls(column, parts, [places[part] for part in parts])


@dataclass(frozen=True, slots=True)
class _Moving:
    """One input of all walks: where they are, `state` [w, d] and the same as `flat`, the rows `made` for the batch, and by step
    the flat places and the values that are written next."""

    name: str
    state: Array
    flat: Array
    made: Array
    places: list[Places]
    values: list[Array]

    @classmethod
    def of(cls, mixture: Mixture, name: str, plan: StepPlan, rows: int) -> _Moving:
        moves = plan.moves(name, mixture.groups.of[name], len(mixture.groups))
        state = mixture.others[name].take(plan.which, axis=0)
        values = mixture.row[name][0][moves.column]
        made = np.empty((rows, state.shape[1]), state.dtype)
        return cls(name, state, state.reshape(-1), made, moves.places, [values[part] for part in moves.parts])
