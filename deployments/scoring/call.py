"""A call before anybody is asked: checked, and its rows dealt out to the versions. Pure, but that it draws, and moves rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput, NotFound
from cluster.routing.routes import Route, Target
from cluster.routing.split import to_candidate
from deployments.engines.datatypes import Array
from deployments.scoring.call_check import check_call, nan_rows
from deployments.scoring.rows import Rows, all_rows, can_move, move_to_end
from deployments.scoring.senders import Senders


@dataclass(frozen=True, slots=True)
class Call:
    """One call under way. The table may change while it runs, this does not.

    `target`, which is stable or the version that was `pinned`, gets the rows `own`, and `candidate` gets `theirs`. Both rise,
    and name rows by where they lie in `tensors`; `order`, where rows were moved, says which row of the caller's lies at each
    place. `keys` are those of `own` while some are to be shadowed. `bad` marks the caller's rows with NaN, which nobody gets.
    `hurried`: its caller gives it so little time that no version is to blame where that is over. `senders` are those of all rows
    where a rollout counts by them; such a call's rows are never moved.
    """

    route: Route
    target: Target
    tensors: Mapping[str, Array]
    rows: int
    end_s: float
    pinned: bool
    bad: npt.NDArray[np.bool_] | None
    own: Rows
    theirs: Rows
    candidate: Target | None = None
    keys: Sequence[bytes | None] = ()
    order: Rows | None = None
    hurried: bool = False
    senders: Senders | None = None

    def left_s(self) -> float:
        """Until the deadline."""
        return self.end_s - time.monotonic()


def begin_call(
    route: Route,
    tensors: Mapping[str, Array],
    keys: Sequence[bytes | None] | None,
    *,
    version: int | None,
    donated: bool,
    end_s: float,
    random: np.random.Generator,
    senders: Senders | None = None,
) -> Call:
    """See `Scorer.score`, which says what it is given and raises. `end_s`, monotonic, is the deadline."""
    target = target_of(route, route.stable if version is None else version)
    rows = check_call(target.signature, tensors, where=route.model)
    if keys is not None and len(keys) != rows:
        raise BadInput(f"{len(keys)} keys for {rows} rows", where=route.model, remedy="send one key a row, or none")
    bad = nan_rows(tensors, rows) if route.serving.refuse_nan else None
    good = all_rows(rows) if bad is None else np.flatnonzero(~bad)
    candidate = route.targets.get(route.candidate) if route.candidate is not None and version is None else None
    if candidate is None:
        return Call(route, target, tensors, rows, end_s, version is not None, bad, good, good[:0])
    known = keys if keys is not None else [None] * rows
    keys = known if bad is None else [known[row] for row in good.tolist()]
    chosen = to_candidate(keys, salt=route.salt, weight=route.weight, random=random)
    count, order = int(np.count_nonzero(chosen)), None
    if count in (0, len(good)):
        own, theirs = (good, good[:0]) if count == 0 else (good[:0], good)
    elif donated and bad is None and senders is None and can_move(tensors):
        # The versions read where they lie what would be copied else.
        order = move_to_end(tensors, chosen)
        own, theirs = good[:-count], good[-count:]
    else:
        own, theirs = good[~chosen], good[chosen]
    left: Sequence[bytes | None] = ()
    if route.shadow > 0:  # who is to be shadowed is a matter of the keys
        left = [known[row] for row in (own if order is None else order[own]).tolist()]
    return Call(route, target, tensors, rows, end_s, False, bad, own, theirs, candidate, left, order, senders=senders)


def target_of(route: Route, version: int) -> Target:
    """Where the version is found. Raises NotFound."""
    target = route.targets.get(version)
    if target is None:
        served = ", ".join(str(number) for number in sorted(route.targets))
        raise NotFound(f"version {version} is not served", where=route.model, remedy=f"served now: {served}")
    return target
