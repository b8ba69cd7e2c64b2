"""The transport over Ray Serve: a handle per version's app, with every wait bounded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from cluster.errors import EngineFailure, HeadraceError, NoCapacity
from cluster.fleet.serving import Serving
from cluster.foreign import kind_and_words
from cluster.routing.routes import Target
from deployments.engines.datatypes import Array
from deployments.observe.traces.span import SpanKind, current_span
from deployments.scoring.port import Late
from deployments.scoring.rows import Answer, Part, all_failed, assembled, take
from deployments.scoring.suspects import Suspects, marks_of
from deployments.transport.lines.client import Declined, Line, Lines, ReplicaGone, StandsStill
from deployments.transport.lines.frames import Broken, Reply, TimedReply
from deployments.transport.lines.serve_book import route_on_this_loop

# The deployment's name in every version's app: the last part of the dashboard's scale address.
DEPLOYMENT = "replicas"
# After so many, the batch itself may be what kills them.
DEATHS_AT_MOST = 3
FORGET_AFTER_S = 300.0  # without a death, a version's rows are above suspicion again
DEATHS = (RayActorError, ReplicaUnavailableError, ReplicaGone)
# Larger calls go by Serve, which hands them over in shared memory.
LINE_MOST_BYTES = 4 << 20
IN_TIME = "retry, add replicas, or allow more time"

_log = logging.getLogger(__name__)


class RemoteTransport:
    """Replicas by Serve handle. Ray must be connected before the first call."""

    def __init__(self, *, for_life: bool = False) -> None:
        """`for_life`: the loop that uses it ends with the process. Then Serve's side of a call runs on it too, not on a thread
        of its own."""
        self._for_life = for_life
        self._handles: dict[str, Any] = {}
        self._lines: dict[str, Lines] = {}
        self._suspects: dict[str, Suspects] = {}
        self._away: set[str] = set()  # apps of which a replica died, and no call has been answered since

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """See `Transport.keep`."""
        for app in [app for app in self._lines if app not in wanted]:
            self._lines.pop(app).close()
        for known in (self._handles, self._suspects):
            for app in [app for app in known if app not in wanted]:
                del known[app]
        self._away &= wanted.keys()

    def ready(self, target: Target) -> bool:  # noqa: ARG002
        """Always: a handle waits for replicas by itself."""
        return True

    def replicas(self, target: Target) -> int:
        """See `Transport.replicas`. Known after the first call."""
        found = self._lines.get(target.app)
        return max(1, found.replicas) if found is not None else 1

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        """See `Transport.score`. Where a replica dies under a call, another one is asked: scoring is idempotent.

        Rows that kill replicas are told apart from their neighbours, over several calls where the time is short: they fail,
        the others are scored. How long it takes says nothing of the version, then and until a call is answered again.
        """
        begin_s = time.monotonic()
        end_s = begin_s + timeout_s
        deaths, away = 0, target.app in self._away
        known = self._suspects.get(target.app)
        if known is not None and begin_s - known.last_death_s > FORGET_AFTER_S:
            del self._suspects[target.app]
        while target.app not in self._suspects:
            try:
                return self._told(target, await self._once(target, tensors, end_s), undisturbed=deaths == 0 and not away)
            except DEATHS:
                self._away.add(target.app)
                deaths += 1
                if deaths >= DEATHS_AT_MOST:
                    self._suspects.setdefault(target.app, Suspects()).died(marks_of(tensors), time.monotonic())
        return self._told(target, await self._warily(target, tensors, end_s, self._suspects[target.app]), undisturbed=False)

    def _told(self, target: Target, answer: Answer, *, undisturbed: bool) -> Answer:
        self._away.discard(target.app)
        return answer if undisturbed else replace(answer, timed=False)

    async def _warily(self, target: Target, tensors: Mapping[str, Array], end_s: float, suspects: Suspects) -> Answer:
        """One group at a time, so that a death has one cause. When the time is over, what was learnt stays for the next try."""
        marks = marks_of(tensors)
        rows = len(marks)
        parts: list[Part] = []
        todo = deque(suspects.groups(marks))
        while todo:
            group = todo.popleft()
            theirs = [marks[row] for row in group.tolist()]
            try:
                answer = await self._once(target, take(tensors, group), end_s)
            except DEATHS:
                suspects.died(theirs, time.monotonic())
                todo.extend(group[again] for again in suspects.groups(theirs))
            else:
                suspects.survived(theirs)
                parts.append(Part(target.version, group, answer))
        convicted = suspects.convicted(marks)
        if convicted:
            _log.error("%s: replicas die when they score %d of %d rows", target.app, len(convicted), rows)
            failure = EngineFailure(
                "replicas die when they score this row", where=target.app, remedy="look at the replicas' logs"
            )
            answer = all_failed(target.signature, len(convicted), failure)
            parts.append(Part(target.version, np.array(convicted, np.intp), answer))
        outputs, failed = assembled(target.signature, parts, rows)
        return Answer(outputs, failed)

    async def close(self) -> None:
        """See `Transport.close`."""
        self.keep({})

    async def _once(self, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        line = self._line(target.app, tensors)
        while line is not None:
            try:
                return await self._by_line(line, target, tensors, end_s)
            except StandsStill:
                line = self._line(target.app, tensors)
            except Declined:
                line = None  # Serve knows who has room
            except (HeadraceError, ReplicaGone):
                raise
            except Exception:  # noqa: BLE001 (logged; a defect of lines is no reason to fail a call)
                _log.exception("%s: a line broke; the call goes by Serve", target.app)
                line = None
        left_s = end_s - time.monotonic()
        handle = self._handle(target.app)
        # The replica is told the time that is left, so that it doesn't score what nobody waits for any more.
        timed = {} if current_span() is None else {"timed": True}
        response = handle.score.remote(dict(tensors), left_s, **timed)
        try:
            reply = await by_serve(response, target.app, left_s)
        except RayTaskError as error:
            if isinstance(error.cause, NoCapacity):
                raise error.cause from error
            return _defect(target, tensors, kind_and_words(error.cause))
        return _answer(target, reply)

    async def _by_line(self, line: Line, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        try:
            reply = await line.score(tensors, max(end_s - time.monotonic(), 0.0), timed=current_span() is not None)
        except TimeoutError:
            raise Late("the replica did not answer in time", where=target.app, remedy=IN_TIME) from None
        if not isinstance(reply, Broken):
            return _answer(target, reply)
        if reply.refusal is not None:
            raise reply.refusal
        return _defect(target, tensors, reply.what)

    def _line(self, app: str, tensors: Mapping[str, Array]) -> Line | None:
        """Where the next call may go past Serve. What Serve knows of the replicas, it learns with the handle's first call."""
        found = self._lines.get(app)
        if found is None:  # also where all calls are large: it tells how many replicas there are
            found = self._lines[app] = Lines(self._handle(app))
        return None if sum(tensor.nbytes for tensor in tensors.values()) > LINE_MOST_BYTES else found.pick()

    def _handle(self, app: str) -> Any:
        found: Any = self._handles.get(app)
        if found is None:
            found = serve.get_deployment_handle(DEPLOYMENT, app_name=app, _check_exists=False)
            if self._for_life and not found.is_initialized:  # Serve keeps handles: a version may come back
                route_on_this_loop(found)
            self._handles[app] = found
        return found


async def by_serve(response: Any, app: str, left_s: float) -> Any:
    """What a replica answers to a call of its handle. Raises NoCapacity, one of DEATHS where it died under the call, and
    RayTaskError for what it raised itself."""
    try:
        async with asyncio.timeout(max(left_s, 0.0)):
            return await response
    except TimeoutError:
        response.cancel()
        # Whether one had it, or all were away, nobody knows.
        raise NoCapacity("no replica answered in time", where=app, remedy=IN_TIME) from None
    except BackPressureError as error:
        raise NoCapacity("the replicas' queue is full", where=app, remedy="retry, or add replicas") from error
    except DeploymentUnavailableError as error:
        raise NoCapacity("its replicas failed to start", where=app, remedy="look at the app's status") from error
    except asyncio.CancelledError:
        response.cancel()  # nobody waits any more: the replica need not begin
        raise
    except DEATHS:
        raise
    except (TaskCancelledError, RayServeException) as error:
        raise NoCapacity(f"Serve dropped the call: {type(error).__name__}", where=app, remedy="retry") from error
    except RayTaskError:
        raise
    except Exception as error:  # Ray raises what it has no name for, too, as a replica goes: no caller is to blame
        _log.exception("%s: a call was lost", app)
        raise NoCapacity(f"the call was lost: {kind_and_words(error)}", where=app, remedy="retry") from error


def _answer(target: Target, reply: Reply | TimedReply) -> Answer:
    outputs, failed, errors = reply[:3]
    if len(reply) == 4:
        _trace(reply)
    for error in errors:
        error.where = error.where or target.app  # ours alone: they came with this reply
    return Answer(outputs, dict(zip(failed, errors, strict=True)))


def _trace(reply: TimedReply) -> None:
    """What the replica did, as it tells by its own clock."""
    span = current_span()
    if span is not None:
        replica, came_ns, began_ns, ended_ns = reply[3]
        whole = span.child("replica", {"headrace.replica": replica}, kind=SpanKind.SERVER, began_ns=came_ns, ended_ns=ended_ns)
        whole.child("wait", began_ns=came_ns, ended_ns=began_ns)
        whole.child("engine", began_ns=began_ns, ended_ns=ended_ns)


def _defect(target: Target, tensors: Mapping[str, Array], raised: str) -> Answer:
    rows = len(next(iter(tensors.values())))
    failure = EngineFailure(f"the replica failed: {raised}", where=target.app, remedy="look at its log")
    return all_failed(target.signature, rows, failure)
