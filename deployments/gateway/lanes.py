"""A lane: what may share a call waits in it, and goes as its calls end. When a call begins is told in `batcher.py`."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cluster.errors import BadInput, HeadraceError, NoCapacity
from cluster.fleet.serving import Serving, TransportKind
from deployments.engines.datatypes import Array
from deployments.gateway.call_cost import CallCost
from deployments.gateway.request_meter import RequestMeter
from deployments.gateway.statistics import Statistics
from deployments.gateway.traced import span_of_call
from deployments.observe.traces.span import Span, current_span
from deployments.scoring.pieces import bearable_calls
from deployments.scoring.port import Late, Scored, Scorer
from deployments.scoring.senders import Senders

_log = logging.getLogger(__name__)

SMOOTHING = 0.2  # weight of the newest call in the running mean of a call's time
CROWD = 4  # requests in a call: so many ask at a time that waiting for more is worth it
TIMER_S = 0.001  # uvloop's timers know whole milliseconds


class LaneKey(NamedTuple):
    """What may be scored in one call. `version` is the one that is pinned; without, `candidate` tells whose keys these are.

    `form` is each input's name, dtype and shape behind the batch axis.
    """

    model: str
    version: int | None
    candidate: bool
    form: tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a lane. One call is under way; up to `calls` once a request has waited `gather_s`; more after `patience_s`, or at
    once where there are several replicas and what waits is work of `gather_s` or more. A candidate's calls begin
    `candidate_apart_s` apart, and a crowd's `candidate_crowd_apart_s`; others of a crowd to replicas `crowd_apart_s`.

    A queue that is empty takes any one request, and one that is not full one that it has no room for: what is large must not wait
    for a quiet moment. None is taken of more rows than `request_rows`.
    """

    calls: int = 2
    gather_s: float = 0.01
    patience_s: float = 0.05
    candidate_apart_s: float = 0.004
    candidate_crowd_apart_s: float = 0.008
    crowd_apart_s: float = 0.004
    queued_rows: int = 32_768
    queued_bytes: int = 256 << 20
    request_rows: int = 1_000_000


@dataclass(eq=False, slots=True)
class _Ask:
    tensors: Mapping[str, Array]
    rows: int
    size_bytes: int
    key: bytes
    begin_s: float
    deadline_s: float
    answer: asyncio.Future[Scored]
    caller: str = ""
    span: Span | None = None
    batch: Sequence[_Ask] = ()
    call: asyncio.Task[None] | None = None

    def expire(self, model: str, timeout_s: float) -> None:
        """Its time is over."""
        if not self.answer.done():
            remedy = "retry, or allow more time with x-timeout-ms"
            self.answer.set_exception(Late(f"no answer within {timeout_s:g} s", where=model, remedy=remedy))
            self.gone()

    def gone(self) -> None:
        """Its caller waits no longer. A call for which nobody waits is ended."""
        if self.call is not None and all(ask.answer.done() for ask in self.batch):
            self.call.cancel()


@dataclass(eq=False, slots=True)
class CallsSeen:
    """Of the calls so far: the running mean of their time, what they cost by their rows, when the last began, and how many
    requests it had."""

    call_s: float = 0.0
    cost: CallCost = field(default_factory=CallCost)
    last_s: float = 0.0
    last_asks: int = 0


@dataclass(eq=False, slots=True)
class Lane:
    """Used from one event loop. `serving`, `version` (which answers) and `judged` are as of the last request's route. `when_idle`
    is called once nothing waits in it any more and nothing is under way, however that came."""

    key: LaneKey
    when_idle: Callable[[Lane], None]
    scorer: Scorer
    limits: BatchLimits
    statistics: Statistics
    requests: RequestMeter
    seen: CallsSeen
    serving: Serving
    version: int
    judged: bool = False  # a rollout wants to know whose rows they are
    traced: bool = False  # of what waits, something is, or was
    queue: deque[_Ask] = field(default_factory=deque)
    queued_rows: int = 0
    queued_bytes: int = 0
    calls: dict[asyncio.Task[None], int] = field(default_factory=dict)  # how many rows each has
    waking: bool = False
    timer: asyncio.TimerHandle | None = None
    look_s: float = 0.0  # when it fires

    async def score(self, tensors: Mapping[str, Array], rows: int, key: bytes, timeout_s: float, caller: str) -> Scored:
        """See `Batcher.score`."""
        loop = asyncio.get_running_loop()
        size_bytes = sum([array.nbytes for array in tensors.values()])
        self._admit(rows, size_bytes, timeout_s)
        now_s, deadline_s = time.monotonic(), loop.time() + timeout_s
        span = current_span()
        ask = _Ask(tensors, rows, size_bytes, key, now_s, deadline_s, loop.create_future(), caller, span)
        self.traced = self.traced or span is not None
        self.queue.append(ask)
        self.queued_rows += rows
        self.queued_bytes += size_bytes
        self._wake()
        timer = loop.call_at(ask.deadline_s, ask.expire, self.key.model, timeout_s)
        try:
            return await ask.answer
        finally:
            timer.cancel()
            if ask.answer.cancelled():
                ask.gone()
            del ask  # an error has this frame, and would be had by it

    def _admit(self, rows: int, size_bytes: int, timeout_s: float) -> None:
        if not self.queue:
            return
        beside = 0 if rows > self.limits.queued_rows else rows
        if self.queued_rows + beside > self.limits.queued_rows or self.queued_bytes + size_bytes > self.limits.queued_bytes:
            raise NoCapacity("too many requests are waiting", where=self.key.model, remedy="retry later, or scale the model")
        calls_before = 1 + self.queued_rows / self.serving.max_batch_rows
        if calls_before * self.seen.call_s / self.limits.calls > timeout_s:
            raise NoCapacity(
                f"requests wait longer than {timeout_s:g} s now", where=self.key.model, remedy="retry later, or scale the model"
            )

    def _wake(self) -> None:
        if not self.queue or self.waking:
            return
        now_s = time.monotonic()
        waited_s = now_s - self.queue[0].begin_s
        if len(self.calls) < self._most_after(waited_s):
            early_s = self.seen.last_s + self._apart_s() - now_s
            if early_s > 0:
                self._look_in(early_s, now_s)
                return
            self.waking = True
            # One turn of the loop later, so that requests that are already in its sockets join.
            asyncio.get_running_loop().call_soon(self._start)
        elif waited_s < self.limits.patience_s:
            most_s = self.limits.gather_s if waited_s < self.limits.gather_s else self.limits.patience_s
            self._look_in(most_s - waited_s, now_s)

    def _apart_s(self) -> float:
        crowd = self.seen.last_asks >= CROWD
        if self.key.candidate:
            return self.limits.candidate_crowd_apart_s if crowd else self.limits.candidate_apart_s
        return self.limits.crowd_apart_s if crowd and self.serving.transport is TransportKind.REMOTE else 0.0

    def _look_in(self, seconds: float, now_s: float) -> None:
        seconds = max(seconds, TIMER_S)
        if self.timer is not None:
            if self.look_s <= now_s + seconds:
                return
            self.timer.cancel()  # what is left of a queue that is parted need not wait as long as its first would have
        self.timer, self.look_s = asyncio.get_running_loop().call_later(seconds, self._look_again), now_s + seconds

    def _most_after(self, waited_s: float) -> int:
        """How many calls may be under way while the first in the queue has waited so long."""
        if waited_s >= self.limits.patience_s:
            return max(self.limits.calls, bearable_calls(self.serving))
        most = self.limits.calls if waited_s >= self.limits.gather_s else 1
        if len(self.calls) < most or not self.seen.cost.calls_worth(self.queued_rows, self.limits.gather_s):
            return most
        return max(most, self._borne_now())

    def _borne_now(self) -> int:
        """How many calls the replicas that there are bear; 1 where there are not several, so that none is idle beside another."""
        replicas = self.scorer.replicas(self.key.model, self.version)
        return bearable_calls(self.serving, replicas) if replicas > 1 else 1

    def _rows_of_a_call(self) -> int:
        """How many rows the next call takes: where several replicas had better share them, its part of all that are not answered
        yet. One that took more would hold up what Serve, which counts calls and not rows, sends to the same replica."""
        rows = self.queued_rows + sum(self.calls.values())
        calls = self.seen.cost.calls_worth(rows, self.limits.gather_s)
        if calls > 1:
            calls = min(calls, self._borne_now())
        return min(math.ceil(rows / max(calls, 1)), self.serving.max_batch_rows)

    def _look_again(self) -> None:
        self.timer = None
        self._wake()

    def _start(self) -> None:
        self.waking = False
        if batch := self._take():
            self._begin(batch)
        self._go_on()

    def _go_on(self) -> None:
        """Something has ended, or was not begun after all."""
        self._wake()
        if not (self.queue or self.calls or self.waking):
            self.when_idle(self)

    def _begin(self, batch: Sequence[_Ask]) -> None:
        begin_s = self.seen.last_s = time.monotonic()
        self.seen.last_asks = len(batch)
        # In a context of its own: in a caller's, Serve would cancel the batch's handle calls with that caller's request.
        call = asyncio.get_running_loop().create_task(self._call(batch, begin_s, self._span(batch, begin_s)), context=Context())
        self.calls[call] = sum([ask.rows for ask in batch])
        for ask in batch:
            ask.batch, ask.call = batch, call
        call.add_done_callback(functools.partial(self._ended, batch))

    def _span(self, batch: Sequence[_Ask], begin_s: float) -> Span | None:
        if not self.traced:
            return None
        self.traced = bool(self.queue)
        waited = [(ask.span, ask.begin_s) for ask in batch if ask.span is not None]
        return span_of_call(waited, begin_s, requests=len(batch), rows=sum(ask.rows for ask in batch)) if waited else None

    def _take(self) -> list[_Ask]:
        """The next batch, without those who gave up or whose time is over."""
        now_s = asyncio.get_running_loop().time()
        batch: list[_Ask] = []
        rows, most = 0, self._rows_of_a_call()
        while self.queue and (not batch or rows + self.queue[0].rows <= most):
            ask = self.queue.popleft()
            self.queued_rows -= ask.rows
            self.queued_bytes -= ask.size_bytes
            if not ask.answer.done() and ask.deadline_s > now_s:
                batch.append(ask)
                rows += ask.rows
        return batch

    async def _call(self, batch: Sequence[_Ask], begin_s: float, span: Span | None) -> None:
        if span is None:
            answers = await self._answers(batch)
        else:
            with span:
                answers = await self._answers(batch)
        if batch[0].call is not None:  # told here, not by `_ended`: a turn of the loop sooner
            self.calls.pop(batch[0].call, None)
        for ask, answer in zip(batch, answers, strict=True):
            if not ask.answer.done():
                ask.answer.set_result(answer)
        try:
            self._count(batch, begin_s, answers)
        except Exception:  # noqa: BLE001 - logged: all have their answers, and nobody is left to be told
            _log.exception("answers of %s were not counted", self.key.model, extra={"model": self.key.model})
        self._wake()

    async def _answers(self, batch: Sequence[_Ask]) -> list[Scored]:
        started_s = time.monotonic()  # uvloop's clock moves once a turn, by milliseconds
        if len(batch) == 1:  # passed on as it is: one giant request is split by the scorer
            ask = batch[0]
            answers = [await self._score(batch, ask.tensors, [ask.key] * ask.rows, ask.deadline_s)]
        else:
            tensors = {name: np.concatenate([ask.tensors[name] for ask in batch]) for name, *_ in self.key.form}
            keys = [key for ask in batch for key in (ask.key,) * ask.rows]
            deadline_s = max(ask.deadline_s for ask in batch)
            answers = split(await self._score(batch, tensors, keys, deadline_s), [ask.rows for ask in batch])
        rows = sum(ask.rows for ask in batch)
        took_s = (time.monotonic() - started_s) / math.ceil(rows / self.serving.max_batch_rows)
        seen = self.seen
        if rows <= self.serving.max_batch_rows:  # pieces of a larger one are scored at a time: they look cheaper than they are
            seen.cost.took(rows, took_s)
        seen.call_s = took_s if seen.call_s == 0 else seen.call_s + SMOOTHING * (took_s - seen.call_s)
        return answers

    async def _score(self, batch: Sequence[_Ask], tensors: Mapping[str, Array], keys: list[bytes], deadline_s: float) -> Scored:
        timeout_s = max(deadline_s - asyncio.get_running_loop().time(), 0.001)
        model, version, senders = self.key.model, self.key.version, _senders(batch) if self.judged else None
        return await self.scorer.score(model, tensors, keys, version=version, timeout_s=timeout_s, senders=senders)

    def _ended(self, batch: Sequence[_Ask], call: asyncio.Task[None]) -> None:
        """Tells those whom the call could tell nothing."""
        self.calls.pop(call, None)
        for ask in batch:  # a batch that its own requests had would be left to the collector, with all of their tensors
            ask.batch, ask.call = (), None
        error = None if call.cancelled() else call.exception()
        if isinstance(error, HeadraceError):
            error.__traceback__ = None  # its frames have the batch as well; a defect keeps them, for the log
        for ask in batch:
            if ask.answer.done():
                continue
            if isinstance(error, BadInput) and len(batch) > 1:
                self._begin([ask])  # whoever is to blame, the others are not: each that still waits is asked again alone
            elif error is None:
                ask.answer.cancel()
            else:
                ask.answer.set_exception(error)
        self._go_on()

    def _count(self, batch: Sequence[_Ask], begin_s: float, answers: Sequence[Scored]) -> None:
        call_s = time.monotonic() - begin_s
        by_version: dict[int, list[_Ask]] = {}
        for ask, answer in zip(batch, answers, strict=True):
            if not answer.errors:
                by_version.setdefault(int(answer.versions[0]), []).append(ask)
        for version, asks in by_version.items():
            self.statistics.scored(
                self.key.model,
                version,
                requests=len(asks),
                rows=sum(ask.rows for ask in asks),
                wait_s=sum(begin_s - ask.begin_s for ask in asks),
                call_s=call_s,
            )
            for ask in asks:
                self.requests.waited(self.key.model, str(version), begin_s - ask.begin_s)


def _senders(batch: Sequence[_Ask]) -> Senders | None:
    """Who sent its rows; None where nobody has a name."""
    names = tuple([ask.caller for ask in batch])
    return Senders(names, tuple(itertools.accumulate([ask.rows for ask in batch]))) if any(names) else None


def split(scored: Scored, rows: Sequence[int]) -> list[Scored]:
    """Cuts an answer into consecutive ones of so many rows each."""
    parts = []
    start = 0
    for count in rows:
        end = start + count
        errors = {row - start: error for row, error in scored.errors.items() if start <= row < end} if scored.errors else {}
        outputs = {name: array[start:end] for name, array in scored.outputs.items()}
        keys = scored.label_keys[start:end] if scored.label_keys is not None else None
        parts.append(Scored(outputs, scored.versions[start:end], errors, keys))
        start = end
    return parts
