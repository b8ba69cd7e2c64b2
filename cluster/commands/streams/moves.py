"""What is done to a stream from outside: looking at dead letters, scoring them again, moving it. Allowed here, and remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message
from cluster.commands.known import known_feed, staying_feed
from cluster.commands.rights import Asks, of_feed, the_clusters
from cluster.errors import Conflict
from cluster.fleet.seeks import runs_again
from cluster.state import AuditEvent, Feed, State, Wanted

WORDS_MOST = 2000
PARTITIONS_MOST = 10_000


class StreamSeen(Message):
    """How a stream stood when somebody decided: its document, what was wanted of it, and since when (Unix)."""

    digest: str
    wanted: Wanted
    since_s: float


class AskStream(Message):
    """One stream, as who may do that much with it."""

    kind: Literal["stream"] = "stream"
    name: str
    role: Literal["view", "operate"] = "view"


class StreamDocument(Message):
    """A stream for who acts on it: its document, how it stands, which inputs its model takes, and which of them are never to be
    shown."""

    name: str
    model: str
    spec: dict[str, Any]
    seen: StreamSeen
    inputs: tuple[str, ...]
    redact: tuple[str, ...]


class LookAtLetter(Command):
    """Somebody looks at the payload of a dead letter."""

    kind: Literal["stream"] = "stream"
    name: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class ReplayLetters(Command):
    """Somebody has dead letters, or records of the input, scored again: `which` in words, and how many there are of them where
    that is known."""

    kind: Literal["stream"] = "stream"
    name: str
    replay: str = Field(pattern=r"^[A-Za-z0-9._-]{1,80}$")
    which: str = Field(max_length=WORDS_MOST)
    letters: int | None = Field(default=None, ge=1)


class SeekStream(Command):
    """Somebody moves a stream that stands as `seen`: to where in words, and how much of each partition it `skips` and
    `repeats` at most."""

    kind: Literal["stream"] = "stream"
    name: str
    to: str = Field(max_length=100)
    seen: StreamSeen
    skips: dict[str, int] = Field(max_length=PARTITIONS_MOST)
    repeats: dict[str, int] = Field(max_length=PARTITIONS_MOST)


class MoveEnded(Command):
    """How a replay or seek ended, in words; `good`: as it was asked for. One that was stopped for it at `stopped_s` (Unix) runs
    again, unless somebody has paused or resumed it since."""

    kind: Literal["stream"] = "stream"
    name: str
    event: Literal["stream.replay", "stream.seek"]
    words: str = Field(max_length=WORDS_MOST)
    good: bool
    stopped_s: float | None = None


def _document(at: Context, feed: Feed) -> StreamDocument:
    model = at.state.models.get(feed.spec.model)
    payloads = model.payloads if model is not None else None
    version = at.state.stable_or_newest(feed.spec.model)
    return StreamDocument(
        name=feed.spec.name,
        model=feed.spec.model,
        spec=json.loads(feed.spec.document),
        seen=StreamSeen(digest=feed.spec.digest, wanted=feed.wanted, since_s=feed.since_s),
        inputs=tuple(spec.name for spec in version.signature.inputs) if version is not None else (),
        redact=payloads.redact if payloads is not None else (),
    )


def _show(at: Context, request: AskStream) -> CommandResult:
    return CommandResult(at.state, _document(at, known_feed(at, request.kind, request.name)))


def _look(at: Context, request: LookAtLetter) -> CommandResult:
    feed = known_feed(at, request.kind, request.name)
    detail = {"partition": request.partition, "offset": request.offset}
    return CommandResult(at.state, _document(at, feed), (_event(at, feed, "dead letter looked at", detail),))


def _replay(at: Context, request: ReplayLetters) -> CommandResult:
    feed = staying_feed(at, request.kind, request.name)
    detail = {"replay": request.replay, "which": request.which, "letters": request.letters}
    return CommandResult(at.state, _document(at, feed), (_event(at, feed, "stream.replay", detail),))


def _seek(at: Context, request: SeekStream) -> CommandResult:
    """The stream is stopped, for whoever asked to move it; the answer tells since when."""
    feed = staying_feed(at, request.kind, request.name)
    if _document(at, feed).seen != request.seen:
        raise Conflict(
            "it has changed since it was looked at: its document, or whether it runs",
            where=f"stream {request.name}",
            remedy="look again at what a seek would do, and decide anew",
        )
    detail = {"to": request.to, "skips": _some(request.skips), "repeats": _some(request.repeats)}
    stopped, state = feed, at.state
    if feed.wanted is Wanted.RUNNING:
        stopped = replace(feed, wanted=Wanted.PAUSED, since_s=at.now_s, seek_s=at.now_s)
        state = replace(at.state, feeds={**at.state.feeds, feed.spec.app: stopped})
    return CommandResult(state, _document(at, stopped), (_event(at, feed, "stream.seek", detail),))


def _some(records: dict[str, int]) -> dict[str, int]:
    """Of those partitions where there are any, the first hundred: what stands in the audit stays small."""
    return dict([(name, count) for name, count in sorted(records.items()) if count][:100])


def _ended(at: Context, request: MoveEnded) -> CommandResult:
    feed, state = known_feed(at, request.kind, request.name), at.state
    if feed.seek_s is not None and feed.seek_s == request.stopped_s and feed.removal is None:
        state = replace(at.state, feeds={**at.state.feeds, feed.spec.app: runs_again(feed, at.now_s)})
    event = f"{request.event} {'done' if request.good else 'failed'}"
    return CommandResult(state, _document(at, feed), (_event(at, feed, event, {"reason": request.words}),))


def _event(at: Context, feed: Feed, event: str, detail: dict[str, Any]) -> AuditEvent:
    told = {"kind": feed.spec.kind.value, "name": feed.spec.name, **detail}
    return AuditEvent(at.now_s, feed.spec.model, None, event, at.actor, told)


def _asks(state: State, request: AskStream) -> Asks:
    asks: Asks = of_feed(Role(request.role))(state, request)
    return asks


SHOW = CommandEntry(
    "stream.show", AskStream, StreamDocument, _show, "A stream for who acts on what it has read", _asks, looks=True
)
LOOK = CommandEntry("stream.look", LookAtLetter, StreamDocument, _look, "Says who looks at a dead letter", of_feed(Role.OPERATE))
REPLAY = CommandEntry(
    "stream.replay", ReplayLetters, StreamDocument, _replay, "Says who has records scored again", of_feed(Role.OPERATE)
)
SEEK = CommandEntry(
    "stream.seek", SeekStream, StreamDocument, _seek, "Stops a stream to be moved, and says by whom", of_feed(Role.OPERATE)
)
ENDED = CommandEntry("stream.ended", MoveEnded, StreamDocument, _ended, "How a replay or a seek ended", the_clusters)
COMMANDS = (SHOW, LOOK, REPLAY, SEEK, ENDED)
