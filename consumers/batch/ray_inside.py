"""What batches need of Ray's insides: jobs asked without a proxy, a quiet log, and an end of the actors that Ray Data leaves.

Ray Data starts up to five detached actors, 300 MB in all, which outlive the run. They are shared by all drivers of a cluster, so
they are ended only where a run of ours made them and no other driver is connected. Who made them is noted in the cluster's
key-value store: a killed run's are ended by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from cluster.foreign import kind_and_words
from deployments.insides import Inside

_LOG_HANDLER = Inside("ray._private.log", "PlainRayHandler", without="Ray Data's log also comes to the terminal")
_STAY = "the actors that Ray Data leaves behind stay until the cluster ends"
_PUT = Inside("ray.experimental.internal_kv", "_internal_kv_put", without=_STAY)
_GET = Inside("ray.experimental.internal_kv", "_internal_kv_get", without=_STAY)
_DELETE = Inside("ray.experimental.internal_kv", "_internal_kv_del", without=_STAY)
_ACTOR_ID = Inside("ray.actor", "ActorHandle._actor_id", without=_STAY)
_REQUEST = Inside(
    "ray.job_submission", "JobSubmissionClient._do_request", without="a proxy of the environment is asked for the own dashboard"
)
TABLE = (_LOG_HANDLER, _PUT, _GET, _DELETE, _ACTOR_ID, _REQUEST)

# By (namespace, name); the last two are made by some runs only.
ACTORS = frozenset(
    {
        ("_dataset_stats_actor", "datasets_stats_actor"),
        ("ActorLocationTracker", "ActorLocationTracker"),
        ("AutoscalingCoordinator", "AutoscalingCoordinator"),
        ("AutoscalingRequester", "AutoscalingRequester"),
        ("_dataset_stats_summary_actor", "dataset_stats_summary_actor"),
    }
)

_LAST_CALLS_S = 5.0
_ANSWER_S = 30.0  # the first job of a cluster starts parts of the dashboard

_log = logging.getLogger(__name__)


class OwnJobClient(JobSubmissionClient):
    """Asks the dashboard of this cluster: without a proxy, which would not know it, and with a limit to how long it may hang."""

    def __init__(self, address: str) -> None:
        """Raises ConnectionError where nobody answers."""
        _REQUEST.probe()
        super().__init__(address)

    def _do_request(self, *request: Any, **options: Any) -> Any:
        # An empty proxy is none, and keeps the environment's from being taken.
        return super()._do_request(*request, **{"timeout": _ANSWER_S, "proxies": {"http": "", "https": ""}, **options})


def others_connected() -> bool:
    """Whether another driver than this one is connected to the cluster. Raises OSError or RuntimeError where nobody can tell."""
    context = ray.get_runtime_context()
    jobs = OwnJobClient(context.gcs_address).list_jobs()
    return any(not job.status.is_terminal() and job.job_id != context.get_job_id() for job in jobs)


def quieten_log() -> None:
    """From now on Ray Data writes to its log file alone: what matters comes back as errors."""
    handler_type = _LOG_HANDLER.probe()
    for handler in logging.getLogger("ray.data").handlers:
        if handler_type is not None and isinstance(handler, handler_type):
            handler.setLevel(logging.CRITICAL)


class LeftActors:
    """Those that Ray Data makes for one run. Make it before the run begins. Where Ray does not tell of them they stay: no run
    fails for their sake."""

    def __init__(self, others: Callable[[], bool] = others_connected) -> None:
        """`others` tells whether another driver uses the cluster, or raises OSError or RuntimeError."""
        self._others = others
        self._able = None not in [inside.probe() for inside in (_PUT, _GET, _DELETE, _ACTOR_ID)]
        self._before: frozenset[tuple[str, str]] = frozenset()
        with self._where_ray_answers():
            self._before = _there() if self._able else frozenset()

    def note(self) -> None:
        """Notes those that came since the run began as ours. Safe to repeat."""
        with self._where_ray_answers():
            self._note()

    def end(self) -> None:
        """Ends those that runs of ours have made, this one or an earlier one, where nobody else is connected."""
        with self._where_ray_answers():
            self._end()

    def _note(self) -> None:
        if self._able:
            for actor in _handles(_there() - self._before):
                _PUT.find()(_mark(actor), b"1")

    def _end(self) -> None:
        if not self._able:
            return
        self._note()
        ours = [actor for actor in _handles(_there()) if _GET.find()(_mark(actor))]
        for actor in ours if ours and not self._others() else ():
            _await_calls(actor)
            ray.kill(actor)
            _DELETE.find()(_mark(actor))

    @contextmanager
    def _where_ray_answers(self) -> Iterator[None]:
        try:
            yield
        except (RayError, OSError, RuntimeError) as error:
            self._able = False  # what was there before is not known, or a mark was not set
            _log.info("Ray Data's actors stay: Ray does not tell of them: %s", kind_and_words(error))


def _there() -> frozenset[tuple[str, str]]:
    named: Iterable[Any] = ray.util.list_named_actors(all_namespaces=True)
    return ACTORS & {(one["namespace"], one["name"]) for one in named}


def _handles(names: Iterable[tuple[str, str]]) -> list[Any]:
    found = []
    for namespace, name in names:
        try:
            found.append(ray.get_actor(name, namespace=namespace))
        except (ValueError, RayError):
            continue  # it ended just now
    return found


def _await_calls(actor: Any) -> None:
    """Until what this process has asked the actor last is done: Ray tells of calls that are lost on the terminal."""
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=_LAST_CALLS_S)
    except RayError as error:
        _log.info("an actor of Ray Data is ended with calls under way: %s", error)


def _mark(actor: Any) -> bytes:
    return f"headrace-ray-data-{actor._actor_id.hex()}".encode()
