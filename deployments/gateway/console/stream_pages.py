"""What a stream's page asks beyond the controller's commands: dead letters, replays and seeks, each as far as its caller may.

The controller allows and remembers first; then whoever knows Kafka is asked (see `streams.py`).
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from cluster.access.callers import CLUSTER, Caller
from cluster.commands.command import Message
from cluster.commands.streams.moves import (
    ENDED,
    LOOK,
    PARTITIONS_MOST,
    REPLAY,
    SEEK,
    SHOW,
    WORDS_MOST,
    MoveEnded,
    StreamDocument,
    StreamSeen,
)
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, HeadraceError, NotFound
from cluster.findings import first_finding
from cluster.state import Wanted
from deployments.gateway.console.streams import LetterChoice, LetterPlace, LetterRange, SeekPlan, StreamMove, StreamOperations
from deployments.observe.use_log import CONSOLE_DOOR, UseLog

M = TypeVar("M", bound=Message)


class AskLetters(Message):
    """The newest dead letters, or those in front of `before`; rows of one `reason`, or of all."""

    before: tuple[LetterRange, ...] = Field(default=(), max_length=PARTITIONS_MOST)
    reason: str = Field(default="", max_length=64)


class AskReplay(Message):
    """Which dead letters, in words and as they were looked at, and how many these were."""

    choice: LetterChoice
    which: str = Field(max_length=500)
    letters: int = Field(ge=1)


class AskPreview(Message):
    """Where to: earliest, latest, or an ISO time."""

    to: str = Field(max_length=100)


class AskSeek(Message):
    """The plan that somebody was shown, and how the stream stood then."""

    plan: SeekPlan
    seen: StreamSeen


class StreamPages:
    """Used on one event loop. Without `operations` each question is NotFound. `uses` is told of lists of dead letters that
    somebody looks at: without payloads, so in numbers; a payload that is shown is recorded by itself, before."""

    def __init__(self, control: ControlPlane, operations: StreamOperations | None, uses: UseLog | None = None) -> None:
        self._control, self._operations, self._uses = control, operations, uses

    async def answer(self, name: str, question: str, asked: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """One question about the stream of that name. Raises what the controller raises to this caller, what the operations
        raise, and BadInput."""
        if self._operations is None:
            raise NotFound("this gateway acts on no streams", where=f"stream {name[:80]}", remedy="use `headrace stream`")
        match question:
            case "letters":
                return await self._letters(name, _parsed(AskLetters, asked), caller, self._operations)
            case "letter":
                return await self._letter(name, _parsed(LetterPlace, asked), caller, self._operations)
            case "replay":
                return await self._replay(name, _parsed(AskReplay, asked), caller, self._operations)
            case "preview":
                return await self._preview(name, _parsed(AskPreview, asked), caller, self._operations)
            case "seek":
                return await self._seek(name, _parsed(AskSeek, asked), caller, self._operations)
            case "moves":
                await self._document(name, "view", caller)
                return {"moves": [move.model_dump(mode="json") for move in await self._operations.moves(name)]}
        raise NotFound(f"nothing is called {question[:80]!r}", where=f"stream {name[:80]}", remedy="open /console/")

    async def _letters(self, name: str, asked: AskLetters, caller: Caller, by: StreamOperations) -> dict[str, Any]:
        stream = await self._document(name, "view", caller)
        found = await by.dead_letters(stream, asked.before, asked.reason)
        if self._uses is not None:
            self._uses.looked(caller.name, stream.model, f"dead letters of stream {name}", CONSOLE_DOOR, len(found.rows))
        return found.model_dump(mode="json")

    async def _letter(self, name: str, place: LetterPlace, caller: Caller, by: StreamOperations) -> dict[str, Any]:
        stream = await self._allowed(LOOK.name, {"name": name, **place.model_dump()}, caller)
        return (await by.dead_letter(stream, place)).model_dump(mode="json")

    async def _replay(self, name: str, asked: AskReplay, caller: Caller, by: StreamOperations) -> dict[str, Any]:
        replay = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        request = {"name": name, "replay": replay, "which": asked.which, "letters": asked.letters}
        stream = await self._allowed(REPLAY.name, request, caller)
        ended = MoveEnded(name=name, actor=actor_of(caller), event="stream.replay", words="", good=False)
        return await self._begun(by.replay(stream, asked.choice, replay, actor_of(caller)), ended)

    async def _preview(self, name: str, asked: AskPreview, caller: Caller, by: StreamOperations) -> dict[str, Any]:
        stream = await self._document(name, "view", caller)
        plan = await by.preview(stream, asked.to)
        parts = [part.model_dump() | {"skips": part.skips, "repeats": part.repeats} for part in plan.parts]
        return {"to": plan.to, "parts": parts, "seen": stream.seen.model_dump(mode="json")}

    async def _seek(self, name: str, asked: AskSeek, caller: Caller, by: StreamOperations) -> dict[str, Any]:
        """Nothing is stopped unless it stands as it was shown."""
        stream = await self._document(name, "operate", caller)
        await by.check(stream, asked.plan)
        request = {
            "name": name,
            "to": asked.plan.to,
            "seen": asked.seen.model_dump(mode="json"),
            "skips": {part.partition: part.skips for part in asked.plan.parts},
            "repeats": {part.partition: part.repeats for part in asked.plan.parts},
        }
        stopped = await self._allowed(SEEK.name, request, caller)
        stopped_s = stopped.seen.since_s if asked.seen.wanted is Wanted.RUNNING else None
        ended = MoveEnded(name=name, actor=actor_of(caller), event="stream.seek", words="", good=False, stopped_s=stopped_s)
        return await self._begun(by.seek(stopped, asked.plan, actor_of(caller), stopped_s), ended)

    async def _begun(self, move: Awaitable[StreamMove], ended: MoveEnded) -> dict[str, Any]:
        """What has just been allowed. Where it can't be begun its end is told at once: a stream must not stay stopped for it."""
        try:
            return (await move).model_dump(mode="json")
        except HeadraceError as error:
            words = f"it was not begun: {error.what}"[:WORDS_MOST]
            await self._control.call(ENDED.name, ended.model_copy(update={"words": words}).model_dump(mode="json"), CLUSTER)
            raise

    async def _document(self, name: str, role: str, caller: Caller) -> StreamDocument:
        told = await self._control.call(SHOW.name, {"name": name, "role": role}, caller)
        return StreamDocument.model_validate(told)

    async def _allowed(self, command: str, request: dict[str, Any], caller: Caller) -> StreamDocument:
        told = await self._control.call(command, request | {"actor": actor_of(caller)}, caller)
        return StreamDocument.model_validate(told)


def actor_of(caller: Caller) -> str:
    """How the audit names who gave a command here."""
    return f"{caller.name}, in the console"


def _parsed(kind: type[M], asked: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        found = first_finding(error)
        raise BadInput(found.words, where=found.field or "request", remedy="load the page again") from error
