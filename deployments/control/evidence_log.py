"""What a scorer has counted and not handed over yet: bounded, since it is counts."""

from __future__ import annotations

from cluster.rollout.callers import CallersTold
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey


class EvidenceLog:
    """Adds up evidence and gives it out in numbered batches. Used from one thread.

    A batch stays the next one, unchanged, until `delivered`: sent again under its number, it is counted once. What is counted
    meanwhile waits for the batch after it.
    """

    def __init__(self, scorer: str) -> None:
        """`scorer` must be new for every scorer that ever runs: the controller remembers its last number."""
        self._scorer = scorer
        self._sequence = 0
        self._counts: dict[EvidenceKey, Counts] = {}
        self._sending: EvidenceBatch | None = None
        self._callers = CallersTold()

    def add(self, key: EvidenceKey, counts: Counts) -> None:
        """Counts more of the same."""
        known = self._counts.get(key)
        if known is None:
            key = self._callers.key(key)
            known = self._counts.get(key)
        self._counts[key] = counts if known is None else known + counts

    def next_batch(self) -> EvidenceBatch | None:
        """The batch to send now; None where there is nothing to tell."""
        if self._sending is None and self._counts:
            self._sequence += 1
            self._sending = EvidenceBatch(self._scorer, self._sequence, self._counts)
            self._counts = {}
        return self._sending

    def delivered(self, batch: EvidenceBatch) -> None:
        """The controller has `batch`."""
        if self._sending is not None and self._sending.sequence == batch.sequence:
            self._sending = None

    def keep_only(self, stages: set[tuple[str, str]]) -> None:
        """Forgets unsent evidence of (model, stage) pairs that are over: nobody counts it any more."""
        self._counts = {key: counts for key, counts in self._counts.items() if (key.model, key.stage) in stages}
        self._callers = CallersTold(self._counts)
