"""Asks the workers of streams how they are doing, in the background: nobody waits for one that is stuck."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from consumers.stream.counters import WorkerStatus

EVERY_S = 1.0
ANSWER_S = 3.0
STALE_S = 15.0

logger = logging.getLogger(__name__)

Ask = Callable[[str], tuple[WorkerStatus, ...]]


@dataclass(frozen=True, slots=True)
class _Answer:
    workers: tuple[WorkerStatus, ...]
    at_s: float


class Watch:
    """The last answers of each app's workers. `ask` is called on a thread of its own, once a second while `workers` is."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="stream-watch")
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._round: Future[None] | None = None
        self._began_s = 0.0

    def workers(self, apps: Iterable[str]) -> Mapping[str, tuple[WorkerStatus, ...]]:
        """What each app's workers last said; none of an app that was not asked yet, or has been silent for long. Never blocks."""
        wanted, now_s = tuple(apps), time.monotonic()
        if (self._round is None or self._round.done()) and now_s - self._began_s >= EVERY_S:
            self._began_s = now_s
            self._round = self._executor.submit(self._ask_all, wanted)
        with self._lock:
            answers = dict(self._answers)
        return {app: answer.workers for app, answer in answers.items() if app in wanted and now_s - answer.at_s < STALE_S}

    def _ask_all(self, apps: tuple[str, ...]) -> None:
        with self._lock:
            self._answers = {app: answer for app, answer in self._answers.items() if app in apps}
        for app in apps:
            try:
                answer = _Answer(self._ask(app), time.monotonic())
            except (RayError, RayServeException, TimeoutError) as error:
                logger.info("%s does not say how it is doing: %s", app, error)
                continue
            with self._lock:
                self._answers[app] = answer


class Replicas:
    """Asks all replicas of an app's deployment at once. Called from one thread."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._handles: dict[str, DeploymentHandle[object]] = {}

    def __call__(self, app: str) -> tuple[WorkerStatus, ...]:
        """What those said that answered in time. Raises what Serve raises, and TimeoutError where it finds no replica in time."""
        handle = self._handles.get(app)
        if handle is None:
            handle = self._handles[app] = serve.get_deployment_handle(self._deployment, app, _check_exists=False)
        answers = handle.broadcast("status").results(timeout_s=ANSWER_S, return_exceptions=True)
        return tuple(WorkerStatus.model_validate(answer) for answer in answers if isinstance(answer, dict))
