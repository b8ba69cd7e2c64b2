"""Runs units on a Ray cluster: Ray Data moves unit descriptions and receipts, never a row."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import ray
import ray.actor
import ray.data
from pydantic import TypeAdapter
from ray.exceptions import RayError

from cluster.error_wire import from_wire, to_wire
from cluster.errors import BadInput, HeadraceError, Unreachable
from cluster.fleet.serving import Resources
from cluster.foreign import kind_and_words
from consumers.batch.plan import Unit
from consumers.batch.ray_inside import LeftActors, quieten_log
from consumers.batch.run import Workforce
from consumers.batch.score.rowscorer import EmbeddedScorer, RowScorer
from consumers.batch.score.unit import UnitRunner
from consumers.batch.score.unit_payloads import unit_payloads
from consumers.batch.score.watched_rows import WatchedRows
from consumers.batch.spec import BatchSpec, ScoringPlace
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.lock import under_way
from consumers.batch.write.records import Receipt, RunRecord, read_receipt, receipt_bytes
from deployments.artifacts.places import Place, locate
from deployments.artifacts.profile import fetch_profile
from deployments.control.client import ActorControlPlane
from deployments.drift.version_counting import VersionCounting
from deployments.engines.load import load_engine
from deployments.observe.logs.set_up import log_to_stderr
from deployments.signing.admission import open_admitted

_log = logging.getLogger(__name__)

_UNIT = TypeAdapter(Unit)
_NAMESPACE = "headrace"
_LOOK_S = 1.0


class UnitActor:
    """A worker of the pool: loads the version once, then runs one unit a call."""

    def __init__(self, output_uri: str, run_path: str) -> None:
        place = locate(output_uri)
        ledger = Ledger(Place(place.filesystem, run_path))
        self._failure: HeadraceError | None = None
        try:
            record = ledger.record()
            log_to_stderr(batch=record.name, model=record.pinned.model, version=record.pinned.version)
            filesystem = locate(record.spec.input.paths[0]).filesystem
            payloads, watched = unit_payloads(record.name, record.pinned, ActorControlPlane), self.watched(record)
            self._runner = UnitRunner(ledger, record, filesystem, self.scorer(record), payloads=payloads, watched=watched)
        except HeadraceError as error:
            # Told with the first unit: raised here, Ray would start the worker again and again.
            self._failure = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """From a unit to its receipt, or to why there is none."""
        try:
            if self._failure is not None:
                raise self._failure
            return {"receipt": receipt_bytes(self._runner.run(_UNIT.validate_json(row["unit"]))), "failure": ""}
        except HeadraceError as error:
            return {"receipt": b"", "failure": json.dumps(to_wire(error))}

    @staticmethod
    def scorer(record: RunRecord) -> RowScorer:
        """The engine in this process, or the way to the replicas that serve online."""
        spec, pinned = record.spec, record.pinned
        if spec.scoring is ScoringPlace.REMOTE:
            # Ray Serve takes seconds to import: a worker with its own engine starts without it.
            from cluster.watch.catalogue import ScoringWay
            from consumers.batch.score.remote_rows import RemoteScorer
            from deployments.scoring.scorer import RoutedScorer
            from deployments.scoring.scorer_thread import ScorerThread

            thread = ScorerThread(lambda: RoutedScorer(ActorControlPlane(), way=ScoringWay.BATCH)).start()
            most = spec.max_quarantined
            return RemoteScorer(thread, pinned.model, pinned.version, rows_per_call=spec.rows_per_call, most_failed=most)
        version = open_admitted(pinned.artifact_uri, pinned.digest, pinned.model)
        engine = load_engine(version, threads=spec.workers.threads, gpus=spec.workers.resources.gpus)
        return EmbeddedScorer(engine, rows_per_call=spec.rows_per_call, most_failed=spec.max_quarantined)

    @staticmethod
    def watched(record: RunRecord) -> WatchedRows:
        """What tells the controller of this cluster how the rows look beside the version's profile."""
        pinned = record.pinned
        try:
            profile = fetch_profile(pinned.artifact_uri, pinned.digest)
        except HeadraceError as error:
            _log.warning("rows are not watched: %s", error)
            profile = None
        return WatchedRows(ActorControlPlane(), VersionCounting(pinned.model, pinned.version, profile))


def count_workers(spec: BatchSpec) -> int:
    """How many workers the pool may have. Raises BadInput where the cluster could never hold one, and Unreachable."""
    workers, wanted = spec.workers, spec.workers.resources
    with _ray_faults():
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if (short := _short(wanted, total)) is not None:
        resource, each = short
        raise BadInput(
            f"a worker asks for {each:g} {resource}, and the cluster has {total.get(resource, 0):g} in all",
            where="spec.workers.resources",
            remedy="ask for less, or add nodes",
        )
    if workers.max is not None:
        return workers.max
    return max(workers.min, rooms(wanted, total, 1))


def ray_workforce(worker: type[UnitActor] = UnitActor) -> Workforce:
    """Workers on the Ray cluster that this process is connected to. `worker` is what runs in each of them."""
    return Workforce(workers=count_workers, score=functools.partial(score_units, worker), hold=actor_lock)


class _Owner:
    """Lives as long as the driver that made it."""


@contextmanager
def actor_lock(home: Place, name: str, *, wait: bool) -> Iterator[None]:
    """Holds an output of any filesystem within one cluster: a named actor, which ends with its driver.

    With `wait` blocks until the other run is over; else raises Conflict.
    """
    key = f"headrace-batch-{home.path}"
    with _ray_faults():
        while (owner := _new_owner(key)) is None:
            if not wait:
                raise under_way(name, "")
            time.sleep(_LOOK_S)
        try:
            yield
        finally:
            ray.kill(owner)


def _new_owner(key: str) -> ray.actor.ActorHandle[_Owner] | None:
    """None where there is one of this name."""
    try:
        owner = ray.remote(num_cpus=0)(_Owner).options(name=key, namespace=_NAMESPACE).remote()
    except ValueError:
        return None
    return cast("ray.actor.ActorHandle[_Owner]", owner)


def score_units(
    worker: type[UnitActor], ledger: Ledger, record: RunRecord, units: Sequence[Unit], workers: int
) -> Iterator[Receipt]:
    """Yields receipts as units finish, in no order. Raises the first failure of a worker; the others' work is kept."""
    with _ray_faults():
        yield from _score_units(worker, ledger, record, units, workers)


def _score_units(
    worker: type[UnitActor], ledger: Ledger, record: RunRecord, units: Sequence[Unit], workers: int
) -> Iterator[Receipt]:
    spec = record.spec
    _quieten()
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    if (shortage := short_of(spec.workers.resources, free)) is not None:
        _log.warning("%s: %s", record.spec.output.path, shortage)
    left = LeftActors()  # before anything of Ray Data's
    rows = ray.data.from_items([{"unit": _UNIT.dump_json(unit)} for unit in units], override_num_blocks=len(units))
    most = min(workers, len(units))
    answers = rows.map(
        worker,  # type: ignore[arg-type]
        fn_constructor_args=(spec.output.path, ledger.place.path),
        compute=ray.data.ActorPoolStrategy(
            min_size=min(spec.workers.min, most), max_size=most, initial_size=_ready(spec, most, free)
        ),
        num_cpus=spec.workers.resources.cpus,
        **_remote_args(spec),
    )
    try:
        for place, answer in enumerate(answers.iter_rows()):
            if not place:
                left.note()
            failure = from_wire(json.loads(answer["failure"] or "null"))
            if failure is not None:
                raise failure
            yield read_receipt(answer["receipt"])
    finally:
        left.end()


def short_of(wanted: Resources, free: Mapping[str, float]) -> str | None:
    """Says what a run waits for where not one worker fits beside what runs now. Pure."""
    if (short := _short(wanted, free)) is None:
        return None
    resource, each = short
    return (
        f"no worker fits now: each asks for {each:g} {resource}, and {free.get(resource, 0):g} are free. The run waits"
        f" for room; it would begin at once with less in spec.workers.resources.{resource.lower()}s"
    )


def _short(wanted: Resources, there: Mapping[str, float]) -> tuple[str, float] | None:
    """The first resource of which there is less than one worker asks for, and how much that is."""
    return next(((resource, each) for resource, each in _asked(wanted) if each > there.get(resource, 0)), None)


def rooms(wanted: Resources, there: Mapping[str, float], otherwise: int) -> int:
    """How many workers fit; `otherwise` where one asks for nothing. Pure."""
    return min((int(there.get(resource, 0) / each) for resource, each in _asked(wanted) if each > 0), default=otherwise)


def _asked(wanted: Resources) -> tuple[tuple[str, float], ...]:
    return ("CPU", wanted.cpus), ("GPU", wanted.gpus)


def _ready(spec: BatchSpec, most: int, free: Mapping[str, float]) -> int:
    """As many workers at once as there is room for now: growing one by one takes seconds."""
    return max(min(spec.workers.min, most), min(most, rooms(spec.workers.resources, free, most)))


def _remote_args(spec: BatchSpec) -> dict[str, Any]:
    wanted = spec.workers.resources
    args: dict[str, Any] = {}
    if wanted.gpus:
        args["num_gpus"] = wanted.gpus
    if wanted.accelerator_type:
        args["accelerator_type"] = wanted.accelerator_type
    if wanted.node_labels:
        args["label_selector"] = wanted.node_labels
    return args


def _quieten() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    quieten_log()


@contextmanager
def _ray_faults() -> Iterator[None]:
    """Whatever Ray raises is told in our words: it is no defect of the run, which can be resumed."""
    try:
        yield
    except RayError as error:
        raise _of_ray(error) from error


def _of_ray(error: RayError) -> HeadraceError:
    cause: BaseException | None = error
    first: BaseException = error
    while cause is not None:
        if isinstance(cause, HeadraceError):
            return cause
        first, cause = cause, cause.__cause__ or getattr(cause, "cause", None)
    return Unreachable(
        f"Ray failed the run: {kind_and_words(first)}",
        where="the Ray cluster",
        remedy="look at the dashboard's Jobs page; `headrace batch resume` goes on from here",
    )
