"""Asking one version: by the transport that its route says, and in pieces that its replicas bear."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.errors import NoCapacity
from cluster.fleet.serving import Serving, TransportKind
from cluster.routing.routes import Route, RouteTable, Target
from deployments.engines.datatypes import Array
from deployments.observe.traces.span import Attribute, SpanKind, current_span
from deployments.scoring.call import Call
from deployments.scoring.pieces import bearable_calls, fed
from deployments.scoring.rows import Answer, Rows, joined, take
from deployments.scoring.scratch import Scratch
from deployments.transport.engine_process import EngineGone
from deployments.transport.transports import Transport

MORE_TIME = "allow more time, or send fewer rows a request"


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """What a version said, and how many seconds it took, or its slowest piece: what is large takes long by its caller's will."""

    answer: Answer
    seconds: float

    @property
    def timed_s(self) -> float | None:
        """The seconds where they say something of the version."""
        return self.seconds if self.answer.timed else None


class VersionAsker:
    """Used from one event loop. `remote` reaches replicas; `embedded` is used for the models that ask for it, as soon as it is
    ready, and `trial` for such a model's candidate that has not passed a step yet."""

    def __init__(self, remote: Transport, embedded: Transport, trial: Transport) -> None:
        self._remote, self._embedded, self._trial = remote, embedded, trial
        self._scratch = Scratch()
        self._rooms: dict[str, tuple[asyncio.Semaphore, int]] = {}

    def keep(self, table: RouteTable) -> None:
        """Only what the table has may be asked from now on. Returns at once."""
        everything = [(route, target) for route in table.routes.values() for target in route.targets.values()]
        self._remote.keep({target.app: (target, route.serving) for route, target in everything})
        apps = {target.app for _, target in everything}
        self._rooms = {app: room for app, room in self._rooms.items() if app in apps}
        here = [(route, target) for route, target in everything if route.serving.transport is TransportKind.EMBEDDED]
        self._embedded.keep({target.app: (target, route.serving) for route, target in here if not _on_trial(route, target)})
        self._trial.keep({target.app: (target, route.serving) for route, target in here if _on_trial(route, target)})

    async def close(self) -> None:
        """Lets everything go."""
        await self._trial.close()
        await self._embedded.close()
        await self._remote.close()

    def replicas(self, route: Route, target: Target) -> int:
        """See `Transport.replicas`."""
        return self._transport(route, target).replicas(target)

    async def ask_rows(self, call: Call, target: Target, rows: Rows, timeout_s: float) -> TimedAnswer:
        """`ask` with these rows of the call, which rise; they are copied unless they lie together."""
        first, end = int(rows[0]), int(rows[-1]) + 1
        if end - first == len(rows):
            tensors = call.tensors if len(rows) == call.rows else take(call.tensors, slice(first, end))
            return await self.ask(call.route, target, tensors, timeout_s)
        lent = self._scratch.take(call.tensors, rows)
        told = await self.ask(call.route, target, lent, timeout_s)
        # Not where it failed: whoever was given up may still read.
        self._scratch.give_back(lent)
        return told

    async def ask(self, route: Route, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> TimedAnswer:
        """One call to a version, in pieces of at most the model's `max_batch_rows`. Raises NoCapacity."""
        span = current_span()
        if span is None:
            return await self._ask(route, target, tensors, timeout_s)
        about: dict[str, Attribute] = {
            "headrace.model": route.model,
            "headrace.version": target.version,
            "headrace.candidate": target.version == route.candidate,
            "headrace.rows": len(next(iter(tensors.values()))),
        }
        with span.child(f"ask {target.app}", about, kind=SpanKind.CLIENT) as asking:
            told = await self._ask(route, target, tensors, timeout_s)
            asking.attributes["headrace.failed_rows"] = len(told.answer.failed)
            return told

    async def _ask(self, route: Route, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> TimedAnswer:
        serving = route.serving
        begin = time.monotonic()
        if timeout_s <= 0:
            raise NoCapacity("the deadline is over", where=target.app, remedy=MORE_TIME)
        transport = self._transport(route, target)
        if route.asleep and transport is self._remote:
            raise asleep(route.model)
        end_s = begin + timeout_s
        rows = len(next(iter(tensors.values())))
        if rows <= serving.max_batch_rows:
            return TimedAnswer(await self._piece(transport, target, tensors, end_s), time.monotonic() - begin)
        size = math.ceil(rows / math.ceil(rows / serving.max_batch_rows))
        starts = range(0, rows, size)
        slowest_s = 0.0

        async def piece(start: int) -> Answer:
            nonlocal slowest_s
            asked_s = time.monotonic()
            if asked_s >= end_s:
                raise NoCapacity("the time was over before all rows were scored", where=target.app, remedy=MORE_TIME)
            answer = await self._piece(transport, target, take(tensors, slice(start, start + size)), end_s)
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            return answer

        room, most = self._room(target, serving)
        answers = await fed([functools.partial(piece, start) for start in starts], room, most)
        return TimedAnswer(joined(target.signature, answers, [min(size, rows - start) for start in starts]), slowest_s)

    def _room(self, target: Target, serving: Serving) -> tuple[asyncio.Semaphore, int]:
        """Shared by all large calls to a version, and for how many pieces."""
        most = bearable_calls(serving)
        known = self._rooms.get(target.app)
        if known is None or known[1] != most:
            known = self._rooms[target.app] = asyncio.Semaphore(most), most
        return known

    async def _piece(self, transport: Transport, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        try:
            return await transport.score(target, tensors, end_s - time.monotonic())
        except EngineGone:
            # Was it one of these rows? The replicas find that out.
            return replace(await self._remote.score(target, tensors, end_s - time.monotonic()), timed=False)

    def _transport(self, route: Route, target: Target) -> Transport:
        if route.serving.transport is TransportKind.REMOTE:
            return self._remote
        here = self._trial if _on_trial(route, target) else self._embedded
        return here if here.ready(target) else self._remote


def _on_trial(route: Route, target: Target) -> bool:
    """Whether the version must not be loaded in this process: it could take it along, so a candidate must have passed a step."""
    return route.trial and target.version == route.candidate


def asleep(model: str) -> NoCapacity:
    """What whoever calls a model is told that has no replicas, and gets none by being called."""
    return NoCapacity("it is scaled to no replicas", where=model, remedy=f"headrace scale {model} 1, then retry")
