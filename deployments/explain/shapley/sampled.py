"""Shapley values: what each group adds, averaged over the orders in which groups may be swapped in, and over other rows.

A pair walks one order forward and back, from another row to the row, so that sums are exact, and effects of two groups on each
other too. Every pair takes another row in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from cluster.errors import BadInput
from deployments.explain.features import Places
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Masks, Mixture
from deployments.explain.result import GroupValues, nothing
from deployments.explain.shapley.first_rounds import FirstRounds
from deployments.explain.shapley.orders import walks_of
from deployments.explain.shapley.steps import StepPlan, found_on
from deployments.explain.shapley.tally import PairTally

# Whether fewer evaluations than these suffice is not asked: to ask costs as much as many of them.
WORTH_A_LOOK = 4096


def least_evaluations(groups: int) -> int:
    """What one pair of walks costs at most, without the ends."""
    return 2 * max(groups - 1, 1)


def sampled(
    mixture: Mixture, evaluator: Evaluator, answer: float, baselines: Floats, evaluations: int, first: FirstRounds
) -> GroupValues:
    """Walks until the standard errors are small or `evaluations` are used up. `baselines` [b] are the others' answers;
    `first` has the first rounds of all rows of the call.

    Where all rows can't be walked twice, the first few are. Raises BadInput where not even one can be walked once.
    """
    size = len(mixture.groups)
    if least_evaluations(size) > evaluations:
        raise BadInput(
            f"{size:,} features need {least_evaluations(size):,} evaluations at least, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more, or put features together in explain.groups, an image's by explain.blocks",
        )
    differing = mixture.differing()
    cost = 2 * np.maximum(differing.sum(axis=1) - 1, 0)
    rows = max(1, int(np.count_nonzero(2 * np.cumsum(cost) <= evaluations)))
    once = int(cost[:rows].sum())
    keys: Iterator[Floats] | None = None
    tally = PairTally.of(rows, size)
    halves, cut = np.zeros(size), False
    done, rounds = 0, evaluations // once if once else 2
    # No error is known before every row was walked from twice. Later half of what seems to be missing is walked at once, so that
    # many walks go side by side.
    at_first = max(2, -(-WORTH_A_LOOK // max(once, 1)))
    at_first = rounds if 2 * rounds <= 3 * at_first else at_first
    while not cut and done < rounds and (missing := min(rounds, max(at_first, tally.rounds_wanted())) - done) > 0:
        times = (missing + 1) // 2 if done else at_first
        # Whatever portions they are cut into: so orders are the same however fast the version is.
        if done:
            keys = keys or first.later(done, rows, size)
            drawn = np.stack(list(islice(keys, times)))
        else:
            drawn = first.drawn(times, rows, size)
        portions = _planned(drawn, differing, _portions(times * cost[:rows], evaluator.rows_at_stake))
        for pairs, plan in portions if done else first.plans(differing, times, rows, portions):
            found = found_on(mixture, evaluator, plan, answer, baselines)
            if found is None:
                cut = True
                break
            if len(found) == 2:  # of one pair no more is known than how far its walks are apart
                halves = np.abs(found[0] - found[1]) / 2
            tally.add(pairs, ((found[0::2] + found[1::2]) / 2).reshape(times, len(pairs), size))
        done += times
    used = tally.counts > 0
    if not used.any():
        return nothing(size, float(baselines[:rows].mean()), rows)
    errors = tally.errors() if tally.counts.sum() > 1 else halves
    return GroupValues(tally.means().mean(axis=0), errors, float(baselines[:rows][used].mean()), int(used.sum()), cut)


def _planned(keys: Floats, differing: Masks, portions: list[Places]) -> Iterator[tuple[Places, StepPlan]]:
    """Pairs of walks from the other rows of each portion, by the keys of t rounds, [t, rows, G]."""
    for pairs in portions:
        walks = walks_of(keys[:, pairs].reshape(-1, keys.shape[2]), differing, np.tile(pairs, len(keys)))
        yield pairs, StepPlan.of(walks)


def _portions(cost: Places, most: int) -> list[Places]:
    """The rows of a round in pieces of about so many evaluations, so that a deadline loses little and memory is bounded."""
    places = np.cumsum(cost) // most
    if places[-1] == 0:
        return [np.arange(len(cost))]
    return np.split(np.arange(len(cost)), np.flatnonzero(np.diff(places)) + 1)
