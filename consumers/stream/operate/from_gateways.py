"""How gateways reach the process that acts on streams: it is started with the first question, and again if it has ended.

Gateways import this; what knows Kafka is imported by that process alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from cluster.commands.streams.moves import StreamDocument
from cluster.errors import HeadraceError, NoCapacity, Unreachable
from deployments.control.client import NAMESPACE
from deployments.gateway.console.streams import (
    DeadLetter,
    DeadLetters,
    LetterChoice,
    LetterPlace,
    LetterRange,
    SeekPlan,
    StreamMove,
    StreamOperations,
)

OPERATOR_ACTOR = "headrace-streams"
ASKED_AT_A_TIME = 8  # of each gateway
ANSWER_S = 60.0  # its process may have to start first


class ActorStreamOperations:
    """Implements `StreamOperations`. Used on one event loop; Ray must be connected."""

    def __init__(self) -> None:
        self._actor: ActorHandle[Any] | None = None
        self._under_way = 0

    async def dead_letters(self, stream: StreamDocument, before: tuple[LetterRange, ...], reason: str) -> DeadLetters:
        found: DeadLetters = await self._ask("dead_letters", stream, before, reason)
        return found

    async def dead_letter(self, stream: StreamDocument, place: LetterPlace) -> DeadLetter:
        found: DeadLetter = await self._ask("dead_letter", stream, place)
        return found

    async def replay(self, stream: StreamDocument, choice: LetterChoice, replay: str, by: str) -> StreamMove:
        begun: StreamMove = await self._ask("replay", stream, choice, replay, by)
        return begun

    async def preview(self, stream: StreamDocument, to: str) -> SeekPlan:
        plan: SeekPlan = await self._ask("preview", stream, to)
        return plan

    async def check(self, stream: StreamDocument, plan: SeekPlan) -> None:
        await self._ask("check", stream, plan)

    async def seek(self, stream: StreamDocument, plan: SeekPlan, by: str, stopped_s: float | None) -> StreamMove:
        begun: StreamMove = await self._ask("seek", stream, plan, by, stopped_s)
        return begun

    async def moves(self, stream: str) -> tuple[StreamMove, ...]:
        """See StreamOperations. Where nobody has begun anything, no process is started to say so."""
        if self._actor is None:
            try:
                self._actor = await asyncio.to_thread(ray.get_actor, OPERATOR_ACTOR, NAMESPACE)
            except ValueError:
                return ()
        try:
            found: tuple[StreamMove, ...] = await self._ask("moves", stream, again=False)
        except Unreachable:
            return ()  # it has ended since; the audit tells what was done
        return found

    async def _ask(self, method: str, *arguments: Any, again: bool = True) -> Any:
        if self._under_way >= ASKED_AT_A_TIME:
            raise NoCapacity("too much is asked of streams just now", where="console", remedy="try again in a moment")
        self._under_way += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._answered(method, arguments, again=again)
        except (RayError, TimeoutError) as error:
            self._actor = None
            what = f"the process that acts on streams does not answer: {type(error).__name__}"
            raise Unreachable(what, where=OPERATOR_ACTOR, remedy="try again; Ray's logs tell more") from error
        finally:
            self._under_way -= 1
        if isinstance(answer, HeadraceError):
            raise answer
        return answer

    async def _answered(self, method: str, arguments: tuple[Any, ...], *, again: bool) -> Any:
        if self._actor is not None:
            try:
                return await self._actor.ask.remote(method, *arguments)
            except RayActorError:  # it ended since, as it does when nobody asks for a while
                self._actor = None
                if not again:
                    raise
        self._actor = await asyncio.to_thread(_operator)
        return await self._actor.ask.remote(method, *arguments)


class StreamOperatorActor:
    """See OperatorProcess."""

    def __init__(self) -> None:
        # Kafka's client, and all that scores, are had in this process alone.
        from consumers.stream.operate.actor import OperatorProcess

        self._process = OperatorProcess()

    def ask(self, method: str, *arguments: Any) -> Any:
        """See OperatorProcess."""
        return self._process.ask(method, *arguments)


def open_operations() -> StreamOperations:
    """For `GatewaySettings.streams`. Starts nothing yet."""
    return ActorStreamOperations()


def _operator() -> ActorHandle[Any]:
    """On the head node: there the controller knows which broker documents mean that name none."""
    options: Any = ray.remote(StreamOperatorActor).options(
        name=OPERATOR_ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_concurrency=2 * ASKED_AT_A_TIME,
        resources={"node:__internal_head__": 0.001},
    )
    actor: ActorHandle[Any] = options.remote()
    return actor
