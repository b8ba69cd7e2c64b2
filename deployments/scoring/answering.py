"""A call's rows, each scored by its version: fallback to stable, second tries, and what is counted of either."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from cluster.errors import BadInput, EngineFailure, NoCapacity
from cluster.foreign import kind_and_words
from cluster.rollout.blame import Blame, blame
from cluster.routing.routes import Target
from cluster.routing.split import to_candidate
from deployments.observe.traces.span import current_span
from deployments.scoring.asking import VersionAsker
from deployments.scoring.call import Call
from deployments.scoring.rows import Answer, Part, Rows, all_failed, assembled, take
from deployments.scoring.senders import shares
from deployments.scoring.shadow.shadows import Shadowed, Shadows
from deployments.scoring.tally import Tally

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# A candidate gets this share of the time that is left, so that the stable version can still answer what it fails.
CANDIDATE_SHARE = 0.5


class CallScorer:
    """Used from one event loop."""

    def __init__(self, asker: VersionAsker, tally: Tally, shadows: Shadows, random: np.random.Generator) -> None:
        self._asker = asker
        self._tally = tally
        self._shadows = shadows
        self._random = random

    async def parts(self, call: Call) -> list[Part]:
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
        return [await self._stable(call, call.own)]

    async def _pinned(self, call: Call) -> Part:
        asked = await self._asker.ask_rows(call, call.target, call.own, call.left_s())
        self._tally.metered(call.route, call.target.version, len(call.own), asked.answer, asked.seconds)
        return Part(call.target.version, call.own, asked.answer)

    async def _stable(self, call: Call, rows: Rows) -> Part:
        route, target = call.route, call.target
        begin = time.monotonic()
        try:
            asked = await self._asker.ask_rows(call, target, rows, call.left_s())
        except asyncio.CancelledError:
            self._tally.given_up(route, target.version, time.monotonic() - begin, shares(call.senders, rows))
            raise
        except Exception as error:
            # Counted as the candidate's are: what hits both, an overload or a defect, must not look like the candidate's fault.
            seconds = time.monotonic() - begin
            sent = shares(call.senders, rows)
            self._tally.not_answered(route, target.version, len(rows), error, seconds, hurried=call.hurried, sent=sent)
            raise
        answer = asked.answer
        self._tally.metered(route, target.version, len(rows), answer, asked.seconds)
        if route.stage:
            failed, blameless = answer.failed, frozenset[int]()
            try:
                if failed:
                    answer, blameless = await self._once_more(call, target, rows, answer)
            finally:
                sent = shares(call.senders, rows, failed, blameless)
                self._tally.answered(route, target.version, len(rows), len(failed), asked.timed_s, len(blameless), sent)
        return Part(target.version, rows, answer)

    async def _instead(self, call: Call, rows: Rows) -> Part:
        """Stable, for rows that the candidate did not answer: uncounted, as they are no fair sample of what stable is given."""
        span = current_span()
        if span is None:
            return await self._asked_instead(call, rows)
        with span.child("fallback", {"headrace.rows": len(rows)}):
            return await self._asked_instead(call, rows)

    async def _asked_instead(self, call: Call, rows: Rows) -> Part:
        asked = await self._asker.ask_rows(call, call.target, rows, call.left_s())
        self._tally.metered(call.route, call.target.version, len(rows), asked.answer, asked.seconds)
        return Part(call.target.version, rows, asked.answer, fair=False)

    async def _once_more(self, call: Call, target: Target, rows: Rows, answer: Answer) -> tuple[Answer, frozenset[int]]:
        """Asks stable again for the rows that it failed, as it is asked for those that a candidate failed: both are judged by one
        rule. Returns the answer with what was saved, and which rows failed again: no evidence, whoever is to blame."""
        lost = np.array([row for row, error in sorted(answer.failed.items()) if not isinstance(error, BadInput)], np.intp)
        if len(lost) == 0:
            return answer, frozenset(answer.failed)
        try:
            again = await self._asker.ask_rows(call, target, rows[lost], call.left_s())
        except NoCapacity:
            return answer, frozenset(answer.failed).difference(lost.tolist())
        kept = np.delete(np.arange(len(rows)), lost)
        refused = {place: answer.failed[row] for place, row in enumerate(kept.tolist()) if row in answer.failed}
        parts = [Part(target.version, kept, Answer(take(answer.outputs, kept), refused))] if len(kept) else []
        merged = Answer(*assembled(target.signature, [*parts, Part(target.version, lost, again.answer)], len(rows)))
        return merged, frozenset(merged.failed)

    async def _candidate(self, call: Call, target: Target) -> list[Part]:
        route, rows = call.route, call.theirs
        begin = time.monotonic()
        share = CANDIDATE_SHARE if route.fallback else 1.0
        try:
            asked = await self._asker.ask_rows(call, target, rows, share * call.left_s())
        except asyncio.CancelledError:
            self._tally.given_up(route, target.version, time.monotonic() - begin, shares(call.senders, rows))
            raise
        except Exception as error:
            seconds = time.monotonic() - begin
            if blame(error) is Blame.MOMENT:
                return await self._missed(call, target, error, seconds)
            if not route.fallback:
                sent = shares(call.senders, rows)
                self._tally.not_answered(route, target.version, len(rows), error, seconds, hurried=call.hurried, sent=sent)
                raise
            # Ours or the version's, its users need not suffer from it.
            _logger.exception("%s", target.app, extra={"model": route.model, "version": target.version})
            answer = all_failed(target.signature, len(rows), EngineFailure(kind_and_words(error)))
            timed_s: float | None = seconds
            self._tally.metered(route, target.version, len(rows), answer, seconds)
        else:
            answer, timed_s = asked.answer, asked.timed_s
            self._tally.metered(route, target.version, len(rows), answer, asked.seconds)
        if not answer.failed:
            self._tally.answered(route, target.version, len(rows), 0, timed_s, sent=shares(call.senders, rows))
            return [Part(target.version, rows, answer)]
        return await self._failed(call, target, answer, timed_s)

    async def _missed(self, call: Call, target: Target, error: Exception, seconds: float) -> list[Part]:
        """The candidate was not there for the call. That is told where stable was."""
        route, rows = call.route, call.theirs
        if not route.fallback:
            sent = shares(call.senders, rows)
            self._tally.not_answered(route, target.version, len(rows), error, seconds, hurried=call.hurried, sent=sent)
            raise error
        saved = await self._instead(call, rows)
        failed = saved.answer.failed
        sent, answered = shares(call.senders, rows, failed, failed), len(rows) - len(failed)
        self._tally.not_answered(route, target.version, answered, error, seconds, hurried=call.hurried, sent=sent)
        self._tally.fell_back(route, target.version, len(rows))
        return [saved]

    async def _failed(self, call: Call, target: Target, answer: Answer, timed_s: float | None) -> list[Part]:
        """Stable is asked for what the candidate failed."""
        route, rows, version = call.route, call.theirs, target.version
        lost = np.fromiter(sorted(answer.failed), dtype=np.intp, count=len(answer.failed))
        blameless: Collection[int] = ()
        try:
            # Also where its answers are not given: only rows that stable can score say something against the candidate.
            saved = await self._instead(call, rows[lost])
            blameless = lost[list(saved.answer.failed)].tolist()
        except NoCapacity:
            if route.fallback:
                raise
        finally:
            sent = shares(call.senders, rows, answer.failed, blameless)
            self._tally.answered(route, version, len(rows), len(lost), timed_s, len(blameless), sent)
        if not route.fallback:
            return [Part(version, rows, answer)]
        self._tally.fell_back(route, version, len(lost))
        if len(lost) == len(rows):
            return [saved]
        kept = np.delete(np.arange(len(rows)), lost)
        return [Part(version, rows[kept], Answer(take(answer.outputs, kept))), saved]

    async def _stable_shadowed(self, call: Call, candidate: Target) -> Part:
        route = call.route
        copied = None
        if self._shadows.room:
            chosen = np.flatnonzero(to_candidate(call.keys, salt=route.salt, weight=route.shadow, random=self._random))
            if len(chosen):
                # Copied before the answer is out: callers may use their arrays again after that.
                copied = chosen, take(call.tensors, call.own[chosen])
        part = await self._stable(call, call.own)
        if copied is not None:
            senders = call.senders and call.senders.of(call.own[copied[0]])
            self._shadows.add(Shadowed(route, candidate, copied[1], _only(part.answer, copied[0]), senders))
        return part


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs everything at once; where one raises, the others end first: nothing works on the caller's arrays afterwards."""
    done = await asyncio.gather(*work, return_exceptions=True)
    good: list[T] = []
    for one in done:
        if isinstance(one, BaseException):
            raise one
        good.append(one)
    return good


def _only(answer: Answer, rows: Rows) -> Answer:
    """The answer for some of its rows."""
    places = {row: place for place, row in enumerate(rows.tolist())}
    failed = {places[row]: error for row, error in answer.failed.items() if row in places}
    return Answer(take(answer.outputs, rows), failed)
