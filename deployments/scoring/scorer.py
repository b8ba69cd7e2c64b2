"""The routed scorer: split, call, fall back, put back in order, shadow, count. Every caller of a version goes through it."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, EngineFailure, NoCapacity, NotFound
from cluster.fleet.serving import Serving
from cluster.fleet.serving import Transport as TransportName
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.routing.routes import Route, RouteTable, Target
from cluster.routing.split import to_candidate
from cluster.signature import Signature
from deployments.control.evidence_log import EvidenceLog
from deployments.control.table_watch import EvidencePush, TableWatch
from deployments.engines.datatypes import Array
from deployments.observe.metering import Meter
from deployments.observe.ray_meter import RayMeter
from deployments.scoring.call import Call, begin_call, target_of
from deployments.scoring.compare import Tolerance, disagreements
from deployments.scoring.label_keys import label_keys
from deployments.scoring.pieces import bearable_calls, fed
from deployments.scoring.port import Scored
from deployments.scoring.rows import Answer, Part, Rows, all_failed, assembled, joined, take
from deployments.scoring.scratch import Scratch
from deployments.scoring.shadows import Shadowed, Shadows
from deployments.transport.engine_process import EngineGone, start_engine_process
from deployments.transport.remote import RemoteTransport
from deployments.transport.transports import EmbeddedTransport, Transport

T = TypeVar("T")

_logger = logging.getLogger(__name__)

FIRST_TABLE_S = 10.0
# A candidate gets this share of the time that is left, so that the stable version can still answer what it fails.
CANDIDATE_SHARE = 0.5
# Who gives a call less than this of the model's own time makes it fail himself: that is no evidence.
HURRIED_SHARE = 0.5
MORE_TIME = "allow more time, or send fewer rows a request"


class RoutedScorer:
    """Implements `deployments.scoring.port.Scorer` over the controller's route table. Used from one event loop.

    `remote` reaches replicas; `embedded` is used for the models that ask for it, as soon as it is ready, and `trial` for such a
    model's candidate that has not passed a step yet.
    """

    def __init__(
        self,
        control: ControlPlane,
        remote: Transport | None = None,
        embedded: Transport | None = None,
        trial: Transport | None = None,
        *,
        meter: Meter | None = None,
        seed: int | None = None,
    ) -> None:
        """Without others given, `remote` asks Serve's replicas, `embedded` loads engines in this process, and `trial` each in a
        process of its own."""
        self._remote = remote or RemoteTransport()
        self._embedded = embedded or EmbeddedTransport()
        self._trial = trial or EmbeddedTransport(start_engine_process)
        self._meter = meter or RayMeter()
        self._random = np.random.default_rng(seed)
        self._log = EvidenceLog(f"scorer-{uuid.uuid4().hex}")
        self._watch = TableWatch(control, self._changed)
        self._push = EvidencePush(control, self._log)
        self._background: list[asyncio.Task[None]] = []
        self._shadows = Shadows(self._shadow)
        self._scratch = Scratch()
        self._rooms: dict[str, tuple[asyncio.Semaphore, int]] = {}

    async def start(self) -> None:
        """Begins to follow the route table; returns when the first one is here, or after a while without."""
        self._background = [asyncio.create_task(self._watch.run()), asyncio.create_task(self._push.run())]
        for task in self._background:
            task.add_done_callback(_tell)
        await self._watch.first(FIRST_TABLE_S)

    async def close(self) -> None:
        """Hands the last evidence over if the controller is there, and lets everything go."""
        tasks = [*self._background, *([self._shadows.task] if self._shadows.task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._push.flush()
        await self._trial.close()
        await self._embedded.close()
        await self._remote.close()

    @property
    def table(self) -> RouteTable:
        """The route table in use."""
        return self._watch.table

    def route(self, model: str) -> Route:
        """The model's route. Raises NotFound."""
        table = self._watch.table
        found = table.routes.get(model)
        if found is None:
            raise NotFound("no version of this model is served", where=model, remedy=_remedy(table))
        return found

    def signature(self, model: str, version: int | None = None) -> Signature:
        """See `Scorer.signature`."""
        route = self.route(model)
        return target_of(route, route.stable if version is None else version).signature

    async def score(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
    ) -> Scored:
        """See `Scorer.score`."""
        return await self.answer(self.begin(model, tensors, keys, version=version, timeout_s=timeout_s, donated=donated))

    def begin(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        donated: bool = False,
    ) -> Call:
        """What `score` does before it asks anybody, and raises then. May be called from any thread; looks at every number."""
        route = self.route(model)
        allowed_s = route.serving.timeout_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + allowed_s
        call = begin_call(route, tensors, keys, version=version, donated=donated, end_s=end_s, random=self._random)
        return replace(call, hurried=True) if allowed_s < HURRIED_SHARE * route.serving.timeout_s else call

    async def answer(self, call: Call) -> Scored:
        """The rest of `score`."""
        target, rows = call.target, call.rows
        parts = await self._parts(call)
        outputs, errors = assembled(target.signature, parts, rows)
        versions = np.full(rows, target.version, dtype=np.int32)
        for part in parts:
            versions[part.rows] = part.version
        if call.bad is not None:
            remedy = "send a number for each, or set `refuse_nan: false` in the Model document"
            refusal = BadInput("the row holds NaN, a missing value", where=call.route.model, remedy=remedy)
            errors.update(dict.fromkeys(np.flatnonzero(call.bad).tolist(), refusal))
        wanted = None if call.pinned else call.route.labels
        return Scored(outputs, versions, errors, label_keys(wanted, outputs, parts, rows) if wanted is not None else None)

    async def _parts(self, call: Call) -> list[Part]:
        """The rows that each version answered, by the caller's numbers."""
        if call.candidate is None or len(call.theirs) == 0:
            return await self._own(call) if len(call.own) else []
        theirs = self._candidate(call, call.candidate)
        if len(call.own) == 0:
            return await theirs
        parts = [part for parts in await _all((theirs, self._own(call))) for part in parts]
        return parts if call.order is None else [replace(part, rows=call.order[part.rows]) for part in parts]

    async def _own(self, call: Call) -> list[Part]:
        if call.pinned:
            return [await self._pinned(call)]
        if call.candidate is not None and call.route.shadow > 0:
            return [await self._stable_shadowed(call, call.candidate)]
        return [await self._stable(call, call.own, counted=True)]

    async def _pinned(self, call: Call) -> Part:
        answer, seconds = await self._ask_rows(call, call.target, call.own, call.left_s())
        self._meter.scored(call.route.model, call.target.version, len(call.own), _failures(answer), seconds)
        return Part(call.target.version, call.own, answer)

    async def _stable(self, call: Call, rows: Rows, *, counted: bool) -> Part:
        """`counted` is False for rows that the candidate failed: they are no fair sample of what stable is given."""
        target = call.target
        begin = time.monotonic()
        try:
            answer, seconds = await self._ask_rows(call, target, rows, call.left_s())
        except asyncio.CancelledError:
            if counted:
                self._count_given_up(call.route, target.version, time.monotonic() - begin)
            raise
        except Exception as error:
            # Counted as the candidate's are: what hits both, an overload or a defect, must not look like the candidate's fault.
            if counted and call.hurried and isinstance(error, NoCapacity):
                self._count_given_up(call.route, target.version, time.monotonic() - begin)
            elif counted:
                self._count(call.route, target.version, len(rows), len(rows), time.monotonic() - begin)
            raise
        self._meter.scored(call.route.model, target.version, len(rows), _failures(answer), seconds)
        if counted and call.route.stage:
            errors, blameless = len(answer.failed), 0
            try:
                if errors:
                    answer, blameless = await self._once_more(call, target, rows, answer)
            finally:
                self._count(call.route, target.version, len(rows), errors, seconds, blameless)
        return Part(target.version, rows, answer, fair=counted)

    async def _once_more(self, call: Call, target: Target, rows: Rows, answer: Answer) -> tuple[Answer, int]:
        """Asks stable again for the rows that it failed, as it is asked for those that a candidate failed: both are judged by one
        rule. Returns the answer with what was saved, and how many rows failed again: no evidence, whoever is to blame."""
        lost = np.array([row for row, error in sorted(answer.failed.items()) if not isinstance(error, BadInput)], np.intp)
        if len(lost) == 0:
            return answer, len(answer.failed)
        try:
            again, _ = await self._ask_rows(call, target, rows[lost], call.left_s())
        except NoCapacity:
            return answer, len(answer.failed) - len(lost)
        kept = np.delete(np.arange(len(rows)), lost)
        refused = {place: answer.failed[row] for place, row in enumerate(kept.tolist()) if row in answer.failed}
        parts = [Part(target.version, kept, Answer(take(answer.outputs, kept), refused))] if len(kept) else []
        merged = Answer(*assembled(target.signature, [*parts, Part(target.version, lost, again)], len(rows)))
        return merged, len(merged.failed)

    async def _candidate(self, call: Call, target: Target) -> list[Part]:
        route, rows, in_haste = call.route, call.theirs, False
        begin = time.monotonic()
        share = CANDIDATE_SHARE if route.fallback else 1.0
        try:
            answer, seconds = await self._ask_rows(call, target, rows, share * call.left_s())
        except asyncio.CancelledError:
            self._count_given_up(route, target.version, time.monotonic() - begin)
            raise
        except Exception as error:
            seconds = time.monotonic() - begin
            in_haste = call.hurried and isinstance(error, NoCapacity)
            if in_haste:
                self._count_given_up(route, target.version, seconds)
            if not route.fallback:
                if not in_haste:
                    self._count(route, target.version, len(rows), len(rows), seconds)
                raise
            failure = error if isinstance(error, NoCapacity) else EngineFailure(repr(error))
            if failure is not error:
                _logger.exception("%s", target.app)  # ours or the version's, its users need not suffer from it
            answer = all_failed(target.signature, len(rows), failure)
        self._meter.scored(route.model, target.version, len(rows), _failures(answer), seconds)
        own = Part(target.version, rows, answer)
        if not answer.failed:
            self._count(route, target.version, len(rows), 0, seconds)
            return [own]
        lost = np.fromiter(sorted(answer.failed), dtype=np.intp, count=len(answer.failed))
        blameless = 0
        try:
            # Also where its answers are not given: only rows that stable can score say something against the candidate.
            saved = await self._stable(call, rows[lost], counted=False)
            blameless = len(saved.answer.failed)
        except NoCapacity:
            if route.fallback:
                raise
        finally:
            if not in_haste:
                self._count(route, target.version, len(rows), len(lost), seconds, blameless)
        if not route.fallback:
            return [own]
        self._meter.fell_back(route.model, target.version, len(lost))
        if len(lost) == len(rows):
            return [saved]
        kept = np.delete(np.arange(len(rows)), lost)
        return [Part(target.version, rows[kept], Answer(take(answer.outputs, kept))), saved]

    async def _stable_shadowed(self, call: Call, candidate: Target) -> Part:
        route = call.route
        copied: tuple[Rows, dict[str, Array]] | None = None
        if self._shadows.room:
            chosen = np.flatnonzero(to_candidate(call.keys, salt=route.salt, weight=route.shadow, random=self._random))
            if len(chosen):
                # Copied before the answer is out: callers may use their arrays again after that.
                copied = chosen, take(call.tensors, call.own[chosen])
        part = await self._stable(call, call.own, counted=True)
        if copied is not None:
            self._shadows.add(Shadowed(route, candidate, copied[1], _only(part.answer, copied[0])))
        return part

    async def _shadow(self, shadowed: Shadowed) -> None:
        route, candidate, rows, stable = shadowed.route, shadowed.candidate, shadowed.rows, shadowed.stable
        now = self._watch.table.routes.get(route.model)
        if now is None or now.stage != route.stage:
            return  # the step is over: the candidate may be gone, and nobody counts this any more
        begin = time.monotonic()
        try:
            answer, seconds = await self._ask(route, candidate, shadowed.tensors, route.serving.timeout_s)
        except NoCapacity as error:
            answer, seconds = all_failed(candidate.signature, rows, error), time.monotonic() - begin
        self._meter.scored(route.model, candidate.version, rows, _failures(answer), seconds)
        both = np.ones(rows, dtype=np.bool_)
        both[list(answer.failed | stable.failed)] = False
        compared = int(both.sum())
        differ = int(_disagreed(stable, answer, both, route.tolerance).sum()) if compared else 0
        if route.stage:
            # Gathered calls say nothing about how long a user's would take.
            blameless = len(answer.failed.keys() & stable.failed.keys())
            errors = len(answer.failed) - blameless
            counts = Counts(rows=rows - blameless, errors=errors, compared=compared, disagreed=differ)
            self._log.add(EvidenceKey(route.model, route.stage, candidate.version), counts)

    async def _ask_rows(self, call: Call, target: Target, rows: Rows, timeout_s: float) -> tuple[Answer, float]:
        """`_ask` with these rows of the call, which rise; they are copied unless they lie together."""
        first, end = int(rows[0]), int(rows[-1]) + 1
        if end - first == len(rows):
            tensors = call.tensors if len(rows) == call.rows else take(call.tensors, slice(first, end))
            return await self._ask(call.route, target, tensors, timeout_s)
        lent = self._scratch.take(call.tensors, rows)
        told = await self._ask(call.route, target, lent, timeout_s)
        # Not where it failed: whoever was given up may still read.
        self._scratch.give_back(lent)
        return told

    async def _ask(self, route: Route, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> tuple[Answer, float]:
        """One call to a version, in pieces of at most the model's `max_batch_rows`; the answer, and how many seconds it took, or
        its slowest piece: what is large takes long by its caller's will."""
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
            return await self._piece(transport, target, tensors, end_s), time.monotonic() - begin
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
        return joined(target.signature, answers, [min(size, rows - start) for start in starts]), slowest_s

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
            return await self._remote.score(target, tensors, end_s - time.monotonic())

    def _transport(self, route: Route, target: Target) -> Transport:
        if route.serving.transport is TransportName.REMOTE:
            return self._remote
        here = self._trial if _on_trial(route, target) else self._embedded
        return here if here.ready(target) else self._remote

    def _count(self, route: Route, version: int, rows: int, errors: int, seconds: float, blameless: int = 0) -> None:
        """`blameless` of the rows, and of the errors, say nothing: no version scores them. Nor does then the time that it took
        to tell them from the others."""
        if not route.stage:
            return
        slow = route.slow_ms is not None and 1000 * seconds > route.slow_ms
        counts = Counts(rows, errors, 1, int(slow)) if blameless == 0 else Counts(rows - blameless, errors - blameless)
        self._log.add(EvidenceKey(route.model, route.stage, version), counts)

    def _count_given_up(self, route: Route, version: int, seconds: float) -> None:
        """Callers gave up: nothing is known of the rows, but that it was slow may be."""
        if route.slow_ms is not None and 1000 * seconds > route.slow_ms:
            self._count(route, version, 0, 0, seconds)

    def _changed(self, table: RouteTable) -> None:
        everything = [(route, target) for route in table.routes.values() for target in route.targets.values()]
        self._remote.keep({target.app: (target, route.serving) for route, target in everything})
        apps = {target.app for _, target in everything}
        self._rooms = {app: room for app, room in self._rooms.items() if app in apps}
        here = [(route, target) for route, target in everything if route.serving.transport is TransportName.EMBEDDED]
        self._embedded.keep({target.app: (target, route.serving) for route, target in here if not _on_trial(route, target)})
        self._trial.keep({target.app: (target, route.serving) for route, target in here if _on_trial(route, target)})
        self._log.keep_only({(route.model, route.stage) for route in table.routes.values()})


def _on_trial(route: Route, target: Target) -> bool:
    """Whether the version must not be loaded in this process: it could take it along, so a candidate must have passed a step."""
    return route.trial and target.version == route.candidate


def _failures(answer: Answer) -> int:
    """How many rows the version failed; what was wrong in itself is its sender's."""
    return sum(not isinstance(error, BadInput) for error in answer.failed.values()) if answer.failed else 0


def asleep(model: str) -> NoCapacity:
    """What whoever calls a model is told that has no replicas, and gets none by being called."""
    return NoCapacity("it is scaled to no replicas", where=model, remedy=f"headrace scale {model} 1, then retry")


def _tell(task: asyncio.Task[None]) -> None:
    """These tasks end only when cancelled; anything else is a defect that must be seen."""
    if not task.cancelled() and task.exception() is not None:
        _logger.error("a background task of the scorer ended", exc_info=task.exception())


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs everything at once; where one raises, the others end first: nothing works on the caller's arrays afterwards."""
    done = await asyncio.gather(*work, return_exceptions=True)
    good: list[T] = []
    for one in done:
        if isinstance(one, BaseException):
            raise one
        good.append(one)
    return good


def _remedy(table: RouteTable) -> str:
    if not table.routes:
        return "apply a Model document and build a version; none is ready yet"
    return f"served now: {', '.join(sorted(table.routes))}"


def _only(answer: Answer, rows: Rows) -> Answer:
    """The answer for some of its rows."""
    places = {row: place for place, row in enumerate(rows.tolist())}
    failed = {places[row]: error for row, error in answer.failed.items() if row in places}
    return Answer(take(answer.outputs, rows), failed)


def _disagreed(stable: Answer, candidate: Answer, both: npt.NDArray[np.bool_], tolerance: Tolerance) -> npt.NDArray[np.bool_]:
    rows = np.flatnonzero(both)
    return disagreements(take(stable.outputs, rows), take(candidate.outputs, rows), tolerance)
