"""Asks the workers of streams how they are doing, in the background: nobody waits for one that is stuck.

What a worker last said is kept as long as Serve says that its replica runs, and it says how old it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.findings import first_finding
from consumers.stream.counters import WorkerStatus
from deployments.serving.serve_controller import each_answer

EVERY_S = 1.0
# Less than `health.SILENT_S` less a second: one replica that is silent makes its neighbours' next answers come that much later.
ANSWER_S = 1.5
MOST_AT_ONCE = 16

logger = logging.getLogger(__name__)

Ask = Callable[[str, Callable[[WorkerStatus], None]], None]


@dataclass(frozen=True, slots=True)
class _Report:
    status: WorkerStatus
    at_s: float


@dataclass
class _App:
    """What is known of one app's workers, by replica, and the round under way."""

    reports: dict[str, _Report] = field(default_factory=dict)
    round: Future[None] | None = None
    began_s: float = float("-inf")


class WorkerReports:
    """The last words of each app's workers. Used from one thread.

    `ask` is called with an app and with what to tell each answer to as it comes; on threads of its own, once a second and app.
    """

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="stream-watch")
        self._lock = threading.Lock()
        self._apps: dict[str, _App] = {}

    def workers(self, running: Mapping[str, Collection[str]]) -> Mapping[str, tuple[WorkerStatus, ...]]:
        """What each replica last said, of those that run (by app); none of one that has said nothing yet. Never blocks."""
        now_s = self._clock()
        with self._lock:
            self._apps = {name: self._apps.get(name) or _App() for name in running}
            for name, app in self._apps.items():
                app.reports = {replica: said for replica, said in app.reports.items() if replica in running[name]}
                if running[name] and (app.round is None or app.round.done()) and now_s - app.began_s >= EVERY_S:
                    app.began_s = now_s
                    app.round = self._threads.submit(self._ask_app, name, app)
            return {name: tuple(_aged(said, now_s) for said in app.reports.values()) for name, app in self._apps.items()}

    def _ask_app(self, name: str, app: _App) -> None:
        def tell(status: WorkerStatus) -> None:
            with self._lock:
                app.reports[status.replica] = _Report(status, self._clock())

        try:
            self._ask(name, tell)
        except (RayError, RayServeException, TimeoutError) as error:
            logger.info("%s does not say how it is doing: %s", name, error)
        except Exception:  # a fault of ours: nobody looks at what a round comes to
            logger.exception("%s was not asked how it is doing", name)


def _aged(said: _Report, now_s: float) -> WorkerStatus:
    return said.status.model_copy(update={"age_s": round(now_s - said.at_s, 1)})


class Replicas:
    """Asks all replicas of an app's deployment at once. Called from any thread, but for one app from one at a time."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._handles: dict[str, DeploymentHandle[object]] = {}
        self._puzzling: set[str] = set()  # apps that have answered in words that are not known here

    def __call__(self, app: str, tell: Callable[[WorkerStatus], None]) -> None:
        """Tells what each says as it says it. Raises what Serve raises, and TimeoutError where it finds no replica in time."""
        handle = self._handles.get(app)
        if handle is None:
            handle = self._handles[app] = serve.get_deployment_handle(self._deployment, app, _check_exists=False)
        for answer in each_answer(handle, "status", timeout_s=ANSWER_S):
            try:
                said = WorkerStatus.model_validate(answer)
            except ValidationError as error:  # a worker of another release: its neighbours are heard all the same
                if app not in self._puzzling:
                    self._puzzling.add(app)
                    logger.warning("a worker of %s answers in other words than are known here: %s", app, first_finding(error))
            else:
                tell(said)
