"""How a scorer reaches an engine: the port, and the transport that holds engines in this process, or in processes beside it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from cluster.errors import HeadraceError, NoCapacity
from cluster.fleet.retry import backoff_s
from cluster.fleet.serving import Serving
from cluster.rollout.blame import TRANSIENT
from cluster.routing.routes import Target
from deployments.engines.datatypes import Array
from deployments.engines.isolate import score_isolating
from deployments.engines.load import load_engine
from deployments.engines.port import Engine
from deployments.observe.traces.span import current_span
from deployments.scoring.port import Late
from deployments.scoring.rows import Answer
from deployments.signing.admission import open_admitted
from deployments.transport.engine_process import EngineGone, EngineProcess

_log = logging.getLogger(__name__)


class Transport(Protocol):
    """Brings a batch to one version and its answer back. Used from one event loop; never blocks it."""

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """Tells which targets, by app, calls may name from now on: others are let go, new ones made ready. Returns at once."""

    def ready(self, target: Target) -> bool:
        """Whether a call to this target may be made here now."""

    def replicas(self, target: Target) -> int:
        """How many of this target can be asked, as far as it is known: at least 1."""

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        """Scores n rows, n at least 1. Safe to repeat. Rows that the version failed are in the answer; raises NoCapacity where
        it could not be asked, lost its processes, or did not answer within `timeout_s`: Late where it had the call for sure."""

    async def close(self) -> None:
        """Lets everything go. Safe to repeat."""


class Runs(Protocol):
    """An engine, and what carries calls to it. Used from one event loop; never blocks it."""

    def begin(self, tensors: Mapping[str, Array], told: asyncio.Future[Answer]) -> None:
        """Scores in its turn and tells the answer, or what was raised. One whose future is done before its turn is left out."""

    def close(self) -> None:
        """Lets the engine go. Safe to repeat."""


class EngineThreads:
    """Implements `Runs` with threads of this process."""

    def __init__(self, engine: Engine, threads: int, name: str) -> None:
        self._engine = engine
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def begin(self, tensors: Mapping[str, Array], told: asyncio.Future[Answer]) -> None:
        """See `Runs.begin`."""
        try:
            self._executor.submit(self._score, tensors, told)
        except RuntimeError as error:
            raise NoCapacity("the version is being let go", remedy="retry") from error

    def close(self) -> None:
        """See `Runs.close`. Who waits for his turn is answered all the same."""
        self._executor.shutdown(wait=False)

    def _score(self, tensors: Mapping[str, Array], told: asyncio.Future[Answer]) -> None:
        """In a thread. Tells the loop itself: by `run_in_executor` an answer takes two futures and turns of the loop more."""
        if told.done():
            return
        try:
            tell: Callable[[], None] = functools.partial(told.set_result, score_isolating(self._engine, tensors))
        except Exception as error:  # noqa: BLE001 (the caller's)
            tell = functools.partial(told.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            told.get_loop().call_soon_threadsafe(_unless_done, told, tell)


def _unless_done(told: asyncio.Future[Answer], tell: Callable[[], None]) -> None:
    if not told.done():
        tell()


class EmbeddedTransport:
    """Engines in this process: no hop. An engine loads in the background as soon as `keep` names it; a failed load is tried again
    when the table next changes, and where what it lacked may come back, a place or a key, after 5 s and then less and less often.
    Remote is used meanwhile."""

    def __init__(self, load: Callable[[Target, Serving], Engine | EngineProcess] | None = None) -> None:
        """`load` blocks and is called in a thread. With `start_engine_process`, each engine has a process of its own; once that
        ends, the engine is not ready until the table next changes."""
        self._load = load or load_target
        self._loaded: dict[str, Runs] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, int] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="engine-loader")

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """See `Transport.keep`."""
        for app in [app for app in self._loaded if app not in wanted]:
            self._loaded.pop(app).close()
        for app in [app for app in self._loading if app not in wanted]:
            self._loading.pop(app).cancel()
        for app in [app for app in self._failures if app not in wanted]:
            self._forget(app)
        for app, (target, serving) in wanted.items():
            if app not in self._loaded and app not in self._loading:
                self._begin(target, serving)

    async def settled(self, apps: Iterable[str]) -> None:
        """Waits until the loads under way of these apps are done, well or badly."""
        tasks = [self._loading[app] for app in apps if app in self._loading]
        await asyncio.gather(*tasks, return_exceptions=True)

    def ready(self, target: Target) -> bool:
        """See `Transport.ready`."""
        return target.app in self._loaded

    def replicas(self, target: Target) -> int:  # noqa: ARG002
        """See `Transport.replicas`: the one here."""
        return 1

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        """See `Transport.score`."""
        loaded = self._loaded.get(target.app)
        if loaded is None:
            raise NoCapacity("its engine is not loaded", where=target.app, remedy="retry")
        span = current_span()
        if span is None:
            return await self._score(loaded, target, tensors, timeout_s)
        with span.child("engine"):
            return await self._score(loaded, target, tensors, timeout_s)

    async def _score(self, loaded: Runs, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Answer] = loop.create_future()
        timer = loop.call_later(max(timeout_s, 0.0), _expire, told)
        try:
            loaded.begin(tensors, told)
            return await told
        except EngineGone:
            if self._loaded.get(target.app) is loaded:
                _log.warning("%s: its process ended under a call", target.app)
                self._loaded.pop(target.app).close()
            raise
        except TimeoutError:
            raise Late(f"no answer within {timeout_s:g} s", where=target.app, remedy="retry, or allow more time") from None
        finally:
            timer.cancel()

    async def close(self) -> None:
        """See `Transport.close`."""
        self.keep({})
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _begin(self, target: Target, serving: Serving) -> None:
        if (due := self._again.pop(target.app, None)) is not None:
            due.cancel()
        self._loading[target.app] = asyncio.create_task(self._bring(target, serving))

    def _forget(self, app: str) -> None:
        self._failures.pop(app, None)
        if (due := self._again.pop(app, None)) is not None:
            due.cancel()

    def _later(self, target: Target, serving: Serving, error: HeadraceError) -> None:
        failures = self._failures[target.app] = self._failures.get(target.app, 0) + 1
        wait_s = backoff_s(failures)
        self._again[target.app] = asyncio.get_running_loop().call_later(wait_s, self._begin, target, serving)
        _log.warning("%s is scored remotely, and loaded again in %.0f s: %s", target.app, wait_s, error)

    async def _bring(self, target: Target, serving: Serving) -> None:
        loop = asyncio.get_running_loop()
        try:
            engine = await loop.run_in_executor(self._loader, functools.partial(self._load, target, serving))
        except HeadraceError as error:
            # Not where there was no room: a process that ended as it loaded would do so again.
            if isinstance(error, TRANSIENT) and not isinstance(error, NoCapacity):
                self._later(target, serving, error)
            else:
                _log.warning("%s is scored remotely: %s", target.app, error)
        else:
            self._forget(target.app)
            if isinstance(engine, EngineProcess):
                try:
                    await engine.connect()
                except BaseException:
                    engine.close()  # nobody else has it by then: its process would stay
                    raise
                self._loaded[target.app] = engine
            else:
                self._loaded[target.app] = EngineThreads(engine, serving.threads, target.app)
        finally:
            if self._loading.get(target.app) is asyncio.current_task():
                del self._loading[target.app]


def _expire(told: asyncio.Future[Answer]) -> None:
    if not told.done():
        told.set_exception(TimeoutError())


def load_target(target: Target, serving: Serving) -> Engine:
    """Fetches and loads a version for this process, on the CPU. Blocks; raises BadArtifact, Unreachable, NoCapacity,
    Forbidden."""
    return load_engine(open_admitted(target.artifact_uri, target.digest, target.model), threads=serving.threads)
