"""Evidence on its way into the state: what scorers push waits here until it is saved, and is counted once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

from cluster.errors import Unreachable
from cluster.rollout.callers import CallersTold
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey, mark
from cluster.state import State

PUSHED_AT_MOST = 4096  # batches that wait to be saved; what a scorer keeps meanwhile is added up, and so bounded


class EvidenceInbox:
    """Used from any thread: a push never waits for the store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pushed: list[EvidenceBatch] = []

    def push(self, batch: EvidenceBatch) -> None:
        """Keeps it. Raises Unreachable where so much waits for the store already that its scorer had better keep it."""
        with self._lock:
            if len(self._pushed) >= PUSHED_AT_MOST:
                remedy = "push it again later: it is counted once"
                raise Unreachable("much evidence waits for the store already", where="controller", remedy=remedy)
            self._pushed.append(batch)

    def waiting(self) -> list[EvidenceBatch]:
        """All that waits, in its order."""
        with self._lock:
            return list(self._pushed)

    def saved(self, batches: int) -> None:
        """The first so many are in the store."""
        with self._lock:
            del self._pushed[:batches]


def count(state: State, batches: Sequence[EvidenceBatch]) -> State:
    """The state with the batches' evidence of the steps under way; the rest, and what was seen before, is left out."""
    if not batches and not state.scorers:
        return state
    stages = {name: rollout.stage for name in state.models if (rollout := state.active(name)) is not None}
    evidence, scorers = dict[EvidenceKey, Counts](), dict(state.scorers)
    about = {(key.model, key.stage) for batch in batches for key in batch.counts if stages.get(key.model) == key.stage}
    told = CallersTold(itertools.chain.from_iterable(state.evidence.of(*each) for each in about))
    for batch in batches:
        fresh = [(key, counts) for key, counts in batch.counts.items() if stages.get(key.model) == key.stage]
        if not fresh or batch.sequence <= scorers.get(batch.scorer, -1):
            continue
        mark(scorers, batch.scorer, batch.sequence)
        for told_key, counts in fresh:
            key = told.key(told_key)
            known = evidence.get(key)
            evidence[key] = counts if known is None else known + counts
    if scorers == state.scorers and not (scorers and not stages):
        return state
    # Marks of resends matter only while evidence is gathered.
    return replace(state, evidence=state.evidence.adding(evidence), scorers=scorers if stages else {})
