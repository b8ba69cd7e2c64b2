"""The controller's process: a detached Ray actor that ticks, and answers while it does."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import ray

from cluster.access.callers import CLUSTER, Caller
from cluster.audit.uses import UseReport
from cluster.commands.versions import RegisterVersion
from cluster.commands.watch.whole_audit import CHECKPOINT, CHECKPOINT_TOLD, AuditCheckpoint
from cluster.control_plane import Told
from cluster.controller import Controller, Point
from cluster.errors import BadInput, Fenced, HeadraceError, Unreachable
from cluster.foreign import kind_and_words
from cluster.routing.changes import TableChange
from cluster.routing.routes import NOTHING, RouteTable, Stamp
from cluster.store.holder import RENEW_EVERY_S, Holder, StoreClaim
from cluster.store.sql import SqlStore
from deployments.observe.logs.set_up import log_to_stderr
from deployments.serving.collector import spare_collections
from headrace.audit.key import audit_signer
from headrace.audit.sending import CheckpointSender
from headrace.local.home import without_password

TICK_S = 0.5
CALM_TICK_S = 2.0  # a look at the world costs Serve and us some 10 ms: not more often where nothing happens
LOOK_EVERY_S = CALM_TICK_S - TICK_S / 2  # nor while a rollout only waits: then each fourth tick looks
REST_MOST_S = 600.0  # longer than anybody drains
FLEET = "deployments.serving.fleet:ServeFleet"
FEEDS = "consumers.stream.serving.feed:ServeStreams"
JOBS = "consumers.batch.schedule.jobs:RayJobs"
STARTING = Unreachable("it is starting", where="controller", remedy="try again in a few seconds")

_log = logging.getLogger(__name__)


class ControllerActor:
    """Runs one Controller. Methods answer errors of ours as values: the client raises them.

    It never fails to start, since Ray would not restart it then: it opens its store in the loop, again and again. Once another
    controller has taken over its store it ends for good; `controller_start.py` makes a new one.
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
        except Exception as fault:  # noqa: BLE001 - Ray would log nothing, and its caller take this process to be away
            _log.exception("a mistake of ours in %s", command)
            return _of_ours(fault, command)
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
        except Exception as fault:  # noqa: BLE001 - a thread that ends here would end the controller without a word
            # A mistake of ours in one tick: scorers keep their table, the next tick begins afresh from what is saved.
            _log.exception("the controller's tick failed")
            if self._controller is None:
                self._trouble = Unreachable(
                    f"it does not begin: {kind_and_words(fault)}",
                    where="controller",
                    remedy="mend that: it tries again and again",
                )

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
        except BaseException:
            store.close()  # the next try opens another
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


def _of_ours(fault: Exception, command: str) -> HeadraceError:
    what = f"a fault of Headrace itself, {kind_and_words(fault)}"
    return HeadraceError(what, where=command, remedy="report it, with what the controller logged")


def _made(named: str) -> Any:
    module, _, attribute = named.partition(":")
    return getattr(importlib.import_module(module), attribute)()
