"""The controller's process: a detached Ray actor that ticks, and answers while it does."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.access.callers import CLUSTER, Caller
from cluster.audit.uses import UseReport
from cluster.commands.command import Message
from cluster.commands.documents import APPLY, Applied, Apply
from cluster.commands.keys import HOME_ADMIT
from cluster.commands.versions import RegisterVersion
from cluster.commands.watch.whole_audit import CHECKPOINT, CHECKPOINT_TOLD, AuditCheckpoint
from cluster.control_plane import Told
from cluster.controller import Controller, Point
from cluster.errors import BadInput, Conflict, Fenced, HeadraceError, Unreachable
from cluster.routing.changes import TableChange
from cluster.routing.routes import NOTHING, RouteTable, Stamp
from cluster.store.holder import RENEW_EVERY_S, Holder, StoreClaim
from cluster.store.sql import SqlStore
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE
from deployments.observe.logs.set_up import log_to_stderr
from deployments.serving.collector import spare_collections
from headrace.audit.key import audit_signer
from headrace.audit.places import place_of
from headrace.audit.sending import CheckpointSender
from headrace.local.home import Settings, without_password
from headrace.local.home_key import ensure_home_key

TICK_S = 0.5
CALM_TICK_S = 2.0  # a look at the world costs Serve and us some 10 ms: not more often where nothing happens
LOOK_EVERY_S = CALM_TICK_S - TICK_S / 2  # nor while a rollout only waits: then each fourth tick looks
START_TIMEOUT_S = 60.0
ASK_S = 10.0
REST_MOST_S = 600.0  # longer than anybody drains
LONG_POLLS = 5_000  # calls at a time; each scorer has one long poll under way
FLEET = "deployments.serving.fleet:ServeFleet"
FEEDS = "consumers.stream.serving.feed:ServeStreams"
JOBS = "consumers.batch.schedule.jobs:RayJobs"
STARTING = Unreachable("it is starting", where="controller", remedy="try again in a few seconds")

_log = logging.getLogger(__name__)


class ControllerActor:
    """Runs one Controller. Methods answer errors of ours as values: the client raises them.

    It never fails to start, since Ray would not restart it then: it opens its store in the loop, again and again. Once another
    controller has taken over its store it ends for good; `start_controller` makes a new one.
    """

    def __init__(
        self,
        store_url: str,
        fleet: str = FLEET,
        feeds: str = FEEDS,
        jobs: str = JOBS,
        audit_key: str = "",
        audit_places: tuple[str, ...] = (),
        cluster: str = "",
        home: str = "",
    ) -> None:
        """`fleet`, `feeds` and `jobs` are named `module:class`, made here without arguments. `audit_key` is the file of
        what signs the audit, made where there is none; empty: nothing does. `audit_places` are where its checkpoints go.

        `cluster` tells this cluster from others that come to its store, and `home` is its folder, for people; empty: the store is
        taken from whoever has it."""
        self._audit_key, self._audit_places = audit_key, audit_places
        log_to_stderr()
        self._store_url = store_url
        self._fleet, self._feeds, self._jobs = _made(fleet), _made(feeds), _made(jobs)
        self._controller: Controller | None = None
        self._trouble: HeadraceError = STARTING
        self._logged = ""  # the last trouble, once for all its ticks
        self._fenced = False
        self._announced = NOTHING  # the last table that the long polls were woken for
        self._wake = threading.Event()
        self._turns = threading.Lock()  # held while it ticks
        self._rests_until_s: float | None = None
        self._cluster, self._home = cluster, home
        self._claim = StoreClaim(cluster)
        self._takes_over = False
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        # A thread: the fleet and the feeds may block for seconds, and answers must not wait for them.
        threading.Thread(target=self._run, name="controller", daemon=True).start()
        if cluster:
            threading.Thread(target=self._renew, name="holder", daemon=True).start()

    async def about(self) -> dict[str, Any]:
        """Which store it keeps, which process it is, and whether it rests."""
        return {"store": self._store_url, "pid": os.getpid(), "rests": self._rests_until_s is not None}

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable | TableChange | HeadraceError:
        """See `ControlPlane.routes`; to who has the table of `after`, only what has changed since."""
        changed = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(changed)
        try:
            async with asyncio.timeout(timeout_s):
                while self._controller is None or not self._controller.ready or self._controller.table.stamp <= after:
                    await changed[1].wait()
                    changed[1].clear()
        except TimeoutError:
            pass  # the unchanged table is the answer, where there is one
        finally:
            with self._lock:
                self._waiting.discard(changed)
        if self._controller is None or not self._controller.ready:
            return self._trouble
        return self._controller.news(after)

    async def rest(self) -> None:
        """No tick and no command from now on: what runs is being ended, and shall not be started again. What is told is still
        taken; after `REST_MOST_S` it ends for good. Returns once no tick is under way."""
        self._trouble = Unreachable("it is ending", where="controller", remedy="`headrace up` starts it again")
        self._rests_until_s = time.monotonic() + REST_MOST_S
        await asyncio.to_thread(self._turns.acquire)
        self._turns.release()

    async def go_on(self) -> None:
        """Takes up its work again: who had it rest has not ended it, and somebody wants it."""
        self._trouble, self._rests_until_s = STARTING, None
        self._wake.set()

    async def take_over(self) -> None:
        """Takes the store also from a cluster whose controller lives: somebody has said so in so many words."""
        self._takes_over = True
        self._wake.set()

    async def push(self, told: Told) -> HeadraceError | None:
        """See `ControlPlane.push`."""
        if self._controller is None:
            return self._trouble
        try:
            if isinstance(told, UseReport):  # it waits for the store
                await asyncio.to_thread(self._controller.push, told)
            else:
                self._controller.push(told)
        except HeadraceError as error:
            return error
        return None

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any] | HeadraceError:
        """See `ControlPlane.call`."""
        if self._controller is None or self._rests_until_s is not None:
            return self._trouble
        try:
            answer = await asyncio.to_thread(self._controller.call, command, payload, caller)
        except HeadraceError as error:
            self._fenced |= isinstance(error, Fenced)
            return error
        if self._controller.stirred:
            self._wake.set()
        return answer

    def _run(self) -> None:
        while not self._fenced and not self._rested():
            with self._turns:
                if self._rests_until_s is None:
                    self._turn()
            calm = self._controller is not None and self._controller.settled
            self._wake.wait(CALM_TICK_S if calm else TICK_S)
            self._wake.clear()
        why = "another controller has taken over the store" if self._fenced else "it was to rest, and nobody ended it"
        _log.error("%s: this one ends", why)
        ray.kill(ray.get_runtime_context().current_actor)  # not exit(): Ray would start it again, to fence the other one

    def _renew(self) -> None:
        # Apart from its ticks: one that waits for the world for long has not died of it.
        while not self._fenced and not self._rested():
            time.sleep(RENEW_EVERY_S)
            if self._controller is not None:
                self._renew_once(self._controller)

    def _renew_once(self, controller: Controller) -> None:
        try:
            controller.renew()
        except Fenced as error:
            self._trouble, self._fenced = error, True
            self._wake.set()
        except Exception:  # noqa: BLE001 - as in `_turn`: to others it would look dead for good
            _log.exception("it can't be told that the controller lives")

    def _turn(self) -> None:
        try:
            if self._controller is None:
                self._controller = self._open()
                self._send_checkpoints(self._controller)
            self._controller.tick()
            if self._controller.ready:
                spare_collections()  # to go through all that it knows of a thousand models takes longer than ten ticks
            self._logged = ""
        except HeadraceError as error:
            if str(error) != self._logged:
                _log.warning("%s", error)
            self._trouble, self._logged = error, str(error)
            # One that has not begun stays, for those who ask why.
            self._fenced |= isinstance(error, Fenced) and self._controller is not None
        except Exception:  # noqa: BLE001 - a thread that ends here would end the controller without a word
            # A mistake of ours in one tick: scorers keep their table, the next tick begins afresh from what is saved.
            _log.exception("the controller's tick failed")

    def _rested(self) -> bool:
        until_s = self._rests_until_s
        return until_s is not None and time.monotonic() > until_s

    def _open(self) -> Controller:
        store = SqlStore(self._store_url)
        try:
            signer = audit_signer(Path(self._audit_key)) if self._audit_key else None
            world = self._fleet, self._feeds, self._jobs
            holder = self._as_holder(store.holder()) if self._cluster else None
            return Controller(
                store,
                *world,
                time.time,
                self._at,
                look_every_s=LOOK_EVERY_S,
                check_version=_check_version,
                remove_artifact=_remove_artifact,
                audit_signer=signer,
                holder=holder,
            )
        except HeadraceError:
            store.close()
            raise

    def _as_holder(self, before: Holder | None) -> Holder:
        """What the store is told of who has it now. Raises as `StoreClaim.check`."""
        if not self._takes_over:
            self._claim.check(before, time.monotonic(), where=without_password(self._store_url))
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        now_s, known = time.time(), before is not None and before.cluster == self._cluster
        place = f"{self._home} on {socket.gethostname()} ({address})"
        return Holder(self._cluster, place, before.since_s if before is not None and known else now_s, now_s)

    def _send_checkpoints(self, controller: Controller) -> None:
        if not self._audit_places or not self._audit_key:
            return
        try:
            CheckpointSender(
                lambda: AuditCheckpoint.model_validate(controller.call(CHECKPOINT.name, {})),
                self._audit_places,
                lambda told: controller.call(CHECKPOINT_TOLD.name, told.model_dump()),
            ).start()
        except BadInput as error:
            _log.error("checkpoints of the audit go nowhere: %s", error)

    def _at(self, point: Point) -> None:
        if point is not Point.PUBLISHED or self._controller is None or self._controller.table.stamp == self._announced:
            return
        self._announced = self._controller.table.stamp
        with self._lock:
            for loop, event in self._waiting:
                loop.call_soon_threadsafe(event.set)


@contextmanager
def asked_for_controller(settings: Settings) -> Iterator[None]:
    """Has the controller's process start, unless it runs, and does not wait; where the block fails, it is ended again."""
    known = _known()
    actor = _actor(settings)
    try:
        yield
    except BaseException:
        if not known:
            ray.kill(actor)
        raise


def start_controller(
    settings: Settings,
    *,
    fleet: str = FLEET,
    feeds: str = FEEDS,
    jobs: str = JOBS,
    timeout_s: float = START_TIMEOUT_S,
    access: Apply | None = None,
    take_over: bool = False,
) -> tuple[str, ...]:
    """Starts the controller on the head node, unless it runs, and waits until it answers and has applied `access`: what is to be
    said of that. Ray must be connected. With `take_over` it takes the store also from another cluster's that lives.

    Raises Conflict where one runs over another store, Fenced where another cluster's has this one and lives, Unreachable where it
    does not answer in time, and BadInput for a store that can't be used.
    """
    for place in settings.audit_places:
        place_of(place)
    actor = _actor(settings, fleet, feeds, jobs)
    trouble = _trouble_of(actor, settings, timeout_s, take_over=take_over)
    if trouble is not None:
        # One that never began must not stay behind and begin later, by itself.
        ray.kill(actor)
        raise trouble
    _admit_home(actor, settings)
    if access is None:
        return ()
    applied = Applied.model_validate(_tell(actor, APPLY.name, access))
    return tuple(change.note for change in applied.changes if change.note)


def bring_back_controller(
    settings: Settings,
    waits: Callable[[HeadraceError], None],
    ray_lives: Callable[[], bool],
    timeout_s: float = START_TIMEOUT_S,
    *,
    take_over: bool = False,
) -> None:
    """Starts the controller where it is away; waits for one that can't begin yet, and leaves it to begin when it can.

    `waits` is told what it waits for, once for each reason; it waits as long as `ray_lives`. Raises what `start_controller`
    raises, for the same.
    """
    until, told = time.monotonic() + timeout_s, ""
    while True:
        try:
            trouble = _trouble_of(_actor(settings), settings, TICK_S, take_over=take_over)
        except Unreachable as error:
            trouble = error  # Ray starts its process again just now
        if trouble is None:
            _admit_home(_actor(settings), settings)
            return
        if not isinstance(trouble, Unreachable) or time.monotonic() > until or not ray_lives():
            raise trouble
        if trouble.what != told:
            waits(trouble)
            told = trouble.what
        time.sleep(TICK_S)  # a store that is locked tells nobody when it is free


def _admit_home(actor: Any, settings: Settings) -> None:
    """Who has the home's key may do everything from now on. Raises Conflict where its file is not this user's alone,
    Unreachable."""
    _tell(actor, HOME_ADMIT.name, ensure_home_key(settings.home))


def _tell(actor: Any, command: str, request: Message) -> dict[str, Any]:
    """The answer. Raises what the command raises, and Unreachable."""
    try:
        answer = ray.get(actor.call.remote(command, request.model_dump(mode="json")), timeout=START_TIMEOUT_S)
    except RayError as error:
        what = f"the controller does not answer: {type(error).__name__}"
        raise Unreachable(what, where=CONTROLLER_ACTOR, remedy="look into Ray's logs") from error
    if isinstance(answer, HeadraceError):
        raise answer
    return dict(answer)


def _trouble_of(actor: Any, settings: Settings, timeout_s: float, *, take_over: bool = False) -> HeadraceError | None:
    """Why the controller does not answer within `timeout_s`, in its own words; None once it does. Raises Conflict where it keeps
    another store, Unreachable where there is nobody to say why."""
    until, ask_s = time.monotonic() + timeout_s, max(timeout_s, ASK_S)
    try:
        about = ray.get(actor.about.remote(), timeout=ask_s)
        if about["store"] != settings.store_url:
            raise Conflict(
                f"the controller of this Ray keeps another store, {without_password(about['store'])}",
                where=without_password(settings.store_url),
                remedy="use that one's HEADRACE_HOME or HEADRACE_STORE_URL, or another Ray",
            )
        if about.get("rests"):  # a `headrace down` was interrupted, or took too long on a Ray that is not its own
            ray.get(actor.go_on.remote(), timeout=ask_s)
        if take_over:
            ray.get(actor.take_over.remote(), timeout=ask_s)
        answer = ray.get(actor.call.remote("status", {}), timeout=ask_s)
        while isinstance(answer, Unreachable) and time.monotonic() < until:
            answer = ray.get(actor.routes.remote(NOTHING, TICK_S), timeout=ask_s)
            answer = ray.get(actor.call.remote("status", {}), timeout=ask_s)
    except RayError as error:
        raise Unreachable(
            f"the controller does not answer: {type(error).__name__}", where=CONTROLLER_ACTOR, remedy="look into Ray's logs"
        ) from error
    return answer if isinstance(answer, HeadraceError) else None


def _known() -> bool:
    try:
        ray.get_actor(CONTROLLER_ACTOR, NAMESPACE)
    except ValueError:
        return False
    return True


def _actor(settings: Settings, fleet: str = FLEET, feeds: str = FEEDS, jobs: str = JOBS) -> Any:
    remote = ray.remote(ControllerActor).options(
        name=CONTROLLER_ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=LONG_POLLS,
        resources={"node:__internal_head__": 0.001},
    )
    home = settings.home
    known_by = ensure_home_key(home).id, str(home.root)  # a home outlives its Ray, and no two clusters share one
    return remote.remote(settings.store_url, fleet, feeds, jobs, str(home.audit_key.absolute()), settings.audit_places, *known_by)


def _check_version(request: RegisterVersion) -> None:
    # pyarrow's 60 MB are had only where versions are registered.
    from deployments.artifacts.registered import check_registered
    from deployments.signing.admission import check_admitted

    check_registered(request.artifact_uri, request.digest, request.engine, request.signature)
    check_admitted(request.artifact_uri, request.digest, request.model)


def _remove_artifact(uri: str) -> None:
    # As above.
    from deployments.artifacts.fetch import remove

    remove(uri)


def _made(named: str) -> Any:
    module, _, attribute = named.partition(":")
    return getattr(importlib.import_module(module), attribute)()
