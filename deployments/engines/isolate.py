"""Finding the rows at fault: a batch that fails is halved until the bad rows stand alone, next to the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from cluster.errors import BadInput, EngineFailure, HeadraceError
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine, RowsRefused
from deployments.scoring.rows import Answer, Part, assembled, blank, take

# So many pieces failed and none passed: the version is broken, not the rows. One row in twenty at fault is still told apart.
GIVE_UP_AFTER = 256


def score_isolating(engine: Engine, tensors: Mapping[str, Array]) -> Answer:
    """Scores a batch; where the engine fails, only the rows at fault carry the EngineFailure, and those that it refuses their
    BadInput. Blocks as the engine does."""
    try:
        return Answer(engine.score(tensors))
    except EngineFailure as error:
        return _halve(engine, tensors, error)
    except RowsRefused as refused:
        return _without(engine, tensors, refused.rows)


def _without(engine: Engine, tensors: Mapping[str, Array], refused: Mapping[int, BadInput]) -> Answer:
    rows = len(next(iter(tensors.values())))
    rest = np.delete(np.arange(rows), list(refused))
    parts = [Part(0, rest, score_isolating(engine, take(tensors, rest)))] if len(rest) else []
    outputs, failed = assembled(engine.signature, parts, rows)
    return Answer(outputs, {**failed, **refused})


def _halve(engine: Engine, tensors: Mapping[str, Array], first: EngineFailure) -> Answer:
    rows = len(next(iter(tensors.values())))
    failed: dict[int, HeadraceError] = {}
    good: list[tuple[int, int, dict[str, Array]]] = []
    todo: deque[tuple[int, int, EngineFailure]] = deque([(0, rows, first)])
    failures = 0
    while todo:
        start, end, error = todo.popleft()
        if end - start == 1 or (not good and failures >= GIVE_UP_AFTER):
            failed.update(dict.fromkeys(range(start, end), error))
            continue
        middle = (start + end) // 2
        for low, high in ((start, middle), (middle, end)):
            try:
                good.append((low, high, engine.score(take(tensors, slice(low, high)))))
            except EngineFailure as again:
                failures += 1
                todo.append((low, high, again))
    outputs: dict[str, Array] = {}
    for spec in engine.signature.outputs:
        inner = good[0][2][spec.name].shape[1:] if good else None
        whole = blank(spec, rows, inner)
        for low, high, answer in good:
            whole[low:high] = answer[spec.name]
        outputs[spec.name] = whole
    return Answer(outputs, failed)
