"""A scorer for callers without an event loop: stream loops and batch workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from cluster.errors import NoCapacity
from cluster.signature import Signature
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainOptions
from deployments.scoring.port import Explained, Scored
from deployments.scoring.scorer import RoutedScorer


class ScorerThread:
    """Runs a scorer on an event loop in its own thread. Every method may be called from any thread.

    Use as a context manager, or call `start` and `close`.
    """

    def __init__(self, make: Callable[[], RoutedScorer]) -> None:
        """`make` is called on the new thread, at `start`."""
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scorer", daemon=True)
        self._scorer: RoutedScorer | None = None

    def start(self) -> ScorerThread:
        """Starts the scorer; returns when its first route table is here, or after a while without."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except BaseException:
            self._stop_loop()
            raise
        return self

    def submit(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
        outliers: bool = False,
    ) -> Future[Scored]:
        """Begins to score; the future raises what `Scorer.score` does. The arrays must stay as they are until it is done.
        `outliers`: which rows are, is told too, as far as profiles say it.

        What needs no loop is done here: it holds the interpreter's lock or works on whole batches, and to take turns at the
        lock with a caller who decodes the next batch costs both.
        """
        scorer = self._running()
        try:
            call = scorer.begin(model, tensors, keys, version=version, timeout_s=timeout_s, donated=donated and not outliers)
        except Exception as error:  # noqa: BLE001 (the future's)
            refused: Future[Scored] = Future()
            refused.set_exception(error)
            return refused
        return asyncio.run_coroutine_threadsafe(scorer.answer(call, outliers=outliers), self._loop)

    def score(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Scored:
        """Scores and waits; see `Scorer.score`."""
        return self.submit(model, tensors, keys, version=version, timeout_s=timeout_s).result()

    def submit_explain(
        self,
        model: str,
        tensors: Mapping[str, Array],
        options: ExplainOptions,
        key: bytes | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Future[Explained]:
        """Begins to explain; see `RoutedScorer.explain`, all of whose errors the future raises."""
        work = self._running().explain(model, tensors, options, key, version=version, timeout_s=timeout_s)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def version_of(self, model: str, key: bytes | None) -> int:
        """See `RoutedScorer.version_of`."""
        return self._running().version_of(model, key)

    def signature(self, model: str, version: int | None = None) -> Signature:
        """See `Scorer.signature`."""
        return self._running().signature(model, version)

    def close(self) -> None:
        """Hands the last evidence over and ends the thread. Safe to repeat."""
        scorer, self._scorer = self._scorer, None
        if scorer is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(scorer.close(), self._loop).result()
        finally:
            self._stop_loop()

    def __enter__(self) -> ScorerThread:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _open(self) -> None:
        scorer = self._make()
        await scorer.start()
        self._scorer = scorer

    def _running(self) -> RoutedScorer:
        if self._scorer is None:
            raise NoCapacity("the scorer is not running", where="scorer", remedy="start it first")
        return self._scorer

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
