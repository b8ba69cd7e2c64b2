"""Scores a batch's rows in the replicas that also serve online. Brings Ray Serve in: only workers import it."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from cluster.errors import NoCapacity, Unreachable
from consumers.batch.score.rowscorer import MOST_FAILED, ExplainCall, FailureLimit
from consumers.batch.write.records import Pinned
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainOptions, Explanation
from deployments.scoring.port import Scored
from deployments.scoring.scorer_thread import ScorerThread

EXPLAIN_CALL_S = 600.0
PAUSES_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class RemoteScorer:
    """The replicas that also serve online, pinned to one version; a few calls are under way at a time.

    A call that finds no capacity is repeated with growing pauses, so that online traffic goes first.
    """

    def __init__(
        self,
        thread: ScorerThread,
        model: str,
        version: int,
        *,
        rows_per_call: int,
        most_failed: int = MOST_FAILED,
        calls: int = 4,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """`most_failed` rows may fail, `calls` are under way at a time; `pauses_s` lie between the tries of one call."""
        self._thread = thread
        self._model = model
        self._version = version
        self._rows_per_call = rows_per_call
        self._calls = calls
        self._pauses_s = pauses_s
        self._limit = FailureLimit(most_failed)

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:
        """See RowScorer. Raises NotFound where the version is not served, and GivenUp."""
        parts: list[dict[str, Array]] = []
        bad: dict[int, str] = {}
        ahead: deque[tuple[int, int, Future[Scored]]] = deque()
        starts = iter(range(0, rows, self._rows_per_call))
        while True:
            for start in itertools.islice(starts, self._calls - len(ahead)):
                end = min(start + self._rows_per_call, rows)
                ahead.append((start, end, self._submit(tensors, start, end)))
            if not ahead:
                break
            start, end, answer = ahead.popleft()
            scored = self._wait(answer, tensors, start, end)
            bad |= {start + at: error.what for at, error in scored.errors.items()}
            if len(scored.errors) < end - start:
                self._limit.answered()
            self._limit.check(bad)
            good = np.delete(np.arange(end - start), list(scored.errors)) if scored.errors else slice(None)
            parts.append({name: output[good] for name, output in scored.outputs.items()})
        self._limit.end(bad)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, bad

    def explains(self, pinned: Pinned, options: ExplainOptions) -> ExplainCall:
        """See Explains. By the replicas, whose users go first: a call that finds no time is repeated, as those that score are."""

        def explain(tensors: Mapping[str, Array]) -> list[Explanation]:
            def ask() -> list[Explanation]:
                asked = self._thread.submit_explain(
                    pinned.model, tensors, options, version=pinned.version, timeout_s=EXPLAIN_CALL_S
                )
                return list(asked.result().explanations)

            for pause_s in self._pauses_s:
                try:
                    return ask()
                except (NoCapacity, Unreachable):
                    time.sleep(pause_s)
            return ask()

        return explain

    def _submit(self, tensors: Mapping[str, Array], start: int, end: int) -> Future[Scored]:
        part = {name: tensor[start:end] for name, tensor in tensors.items()}
        return self._thread.submit(self._model, part, version=self._version)

    def _wait(self, answer: Future[Scored], tensors: Mapping[str, Array], start: int, end: int) -> Scored:
        for pause_s in self._pauses_s:
            try:
                return answer.result()
            except (NoCapacity, Unreachable):
                time.sleep(pause_s)
                answer = self._submit(tensors, start, end)
        return answer.result()
