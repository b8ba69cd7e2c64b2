"""Commands on streams and batches, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.known import has_changed, known_feed, staying_feed
from cluster.commands.models import tried_again
from cluster.commands.rights import anybodys, of_feed, the_clusters
from cluster.errors import Conflict
from cluster.ports import AppStatus, FeedKind, FeedState
from cluster.schedule.cron import next_fires
from cluster.schedule.fires import Fire, job_of
from cluster.state import Feed, Removal, State, Wanted, feed_key

NEXT_FIRES = 3
NOTES_AT_MOST = 20_000


class FeedName(Command):
    """A command on one stream or batch."""

    kind: Literal["stream", "batch"]
    name: str


class MoveFeed(FeedName):
    """Pauses or resumes one. With `seen`, only where it is still wanted so: else Conflict."""

    seen: Literal["running", "paused"] | None = None


class FeedNotes(Message):
    """What a feed remembers between the lives of its workers: keys and texts that only it understands.

    Asked with notes, they are kept in place of those of the same keys; the answer holds all.
    """

    kind: Literal["stream", "batch"]
    name: str
    notes: dict[str, str] = Field(default_factory=dict, max_length=NOTES_AT_MOST)


class FireView(Message):
    """One fire of a schedule: when it was due, how it went, under which job. `attempt` counts from 0; `by` is the person who
    asked for it, empty where the schedule did."""

    at_s: float
    state: str
    job: str
    attempt: int
    ended_s: float | None
    reason: str
    by: str = ""


class ScheduleView(Message):
    """A batch's schedule: when it runs next (nothing while paused), and its history, oldest first."""

    cron: str
    timezone: str
    next_s: tuple[float, ...]
    fires: tuple[FireView, ...]


class FeedView(Message):
    """A feed as commands show it. `wanted` is what was asked for, `status` what is seen, `workers` what each says of itself.

    `removing` is what its removal waits for; empty where it stays. `by_hand` are a batch's runs that persons asked for, oldest
    first.
    """

    kind: str
    name: str
    model: str
    wanted: Literal["running", "paused"]
    status: str
    replicas: int
    message: str
    spec: dict[str, Any]
    workers: tuple[dict[str, Any], ...] = ()
    schedule: ScheduleView | None = None
    project: str = ""
    removing: str = ""
    by_hand: tuple[FireView, ...] = ()


class FeedList(Message):
    """All feeds of the kind asked for."""

    feeds: tuple[FeedView, ...]


def schedule_view(feed: Feed, now_s: float) -> ScheduleView | None:
    """When a batch runs; None where it has no schedule."""
    schedule = feed.spec.schedule
    if schedule is None:
        return None
    return ScheduleView(
        cron=schedule.cron,
        timezone=schedule.timezone,
        next_s=tuple(next_fires(schedule, max(now_s, feed.since_s), NEXT_FIRES)) if feed.wanted is Wanted.RUNNING else (),
        fires=tuple(fire_view(feed.spec.name, fire) for fire in feed.fires if not fire.by),
    )


def fire_view(name: str, fire: Fire) -> FireView:
    """One run of the batch of that name, by its schedule or by hand."""
    return FireView(
        at_s=fire.at_s,
        state=fire.state.value,
        job=job_of(name, fire),
        attempt=fire.attempt,
        ended_s=fire.ended_s,
        reason=fire.reason,
        by=fire.by,
    )


def feed_view(feed: Feed, seen: Mapping[str, FeedState], now_s: float, faults: Mapping[str, str]) -> FeedView:
    """One feed: what is wanted, and what is seen. What runs of an older document is not told as if it were of this one."""
    spec = feed.spec
    running = seen.get(spec.name) if spec.kind is FeedKind.STREAM else None
    older = running is not None and running.digest not in (spec.digest, "")  # "": Serve does not say yet
    if running is not None and older:
        status = (AppStatus.STARTING if feed.wanted is Wanted.RUNNING else AppStatus.STOPPING).value
        replicas, message = 0, f"what runs of the last document drains first ({running.app.replicas} replicas)"
    elif running is not None:
        status, replicas, message = running.app.status.value, running.app.replicas, running.app.message
    else:
        status, replicas, message = ("declared" if spec.kind is FeedKind.BATCH else "stopped"), 0, ""
        if feed.retry is not None and feed.retry.next_s is not None:
            status = AppStatus.FAILED.value
    if feed.retry is not None:
        message = "; ".join((message or feed.retry.reason, tried_again(feed.retry, now_s)))
    return FeedView(
        kind=spec.kind.value,
        name=spec.name,
        model=spec.model,
        wanted=feed.wanted.value,
        status=status,
        replicas=replicas,
        message=faults.get(spec.app, message),
        spec=json.loads(spec.document),
        workers=running.workers if running is not None and not older else (),
        schedule=schedule_view(feed, now_s),
        project=feed.project,
        removing=_removing(feed, running),
        by_hand=tuple(fire_view(spec.name, fire) for fire in feed.fires if fire.by),
    )


def _removing(feed: Feed, running: FeedState | None) -> str:
    if feed.removal is None:
        return ""
    if feed.spec.kind is FeedKind.BATCH:
        return "its job is being stopped" if feed.fires else "waits for the next look"
    return "it drains" if running is not None else "waits for the next look"


def begin_removal(state: State, feed: Feed, actor: str) -> State:
    """The state with the stream or batch on its way out."""
    if feed.removal is not None:
        return state
    return replace(state, feeds={**state.feeds, feed.spec.app: replace(feed, removal=Removal(actor), retry=None)})


def _delete(at: Context, request: FeedName) -> CommandResult:
    state = begin_removal(at.state, known_feed(at, request.kind, request.name), at.actor)
    return CommandResult(state, feed_view(state.feeds[feed_key(request.kind, request.name)], at.feeds, at.now_s, at.faults))


def feed_views(at: Context) -> tuple[FeedView, ...]:
    """All that the caller may view, by name."""
    feeds = (at.state.feeds[name] for name in sorted(at.state.feeds))
    return tuple(feed_view(feed, at.feeds, at.now_s, at.faults) for feed in feeds if at.caller.may(Role.VIEW, feed.spec.model))


def _list(at: Context, _: Nothing) -> CommandResult:
    return CommandResult(at.state, FeedList(feeds=feed_views(at)))


def _show(at: Context, request: FeedName) -> CommandResult:
    return CommandResult(at.state, feed_view(known_feed(at, request.kind, request.name), at.feeds, at.now_s, at.faults))


def _pause(at: Context, request: MoveFeed) -> CommandResult:
    return _want(at, request, Wanted.PAUSED)


def _resume(at: Context, request: MoveFeed) -> CommandResult:
    return _want(at, request, Wanted.RUNNING)


def _notes(at: Context, request: FeedNotes) -> CommandResult:
    feed = known_feed(at, request.kind, request.name)
    notes = {**feed.notes, **request.notes}
    if len(notes) > NOTES_AT_MOST:
        raise Conflict(
            f"it would remember more than {NOTES_AT_MOST} things",
            where=f"{request.kind} {request.name}",
            remedy="split it, or give it fewer topics: it remembers each topic and each partition that it reads",
        )
    state = at.state
    if notes != feed.notes:
        state = replace(state, feeds={**state.feeds, feed.spec.app: replace(feed, notes=notes)})
    return CommandResult(state, FeedNotes(kind=request.kind, name=request.name, notes=notes))


def _want(at: Context, request: MoveFeed, wanted: Wanted) -> CommandResult:
    feed = staying_feed(at, request.kind, request.name)
    if request.seen is not None and request.seen != feed.wanted:
        what = f"it has changed: it is {feed.wanted} now, and was seen {request.seen}"
        raise has_changed(what, f"{request.kind} {request.name}")
    if feed.wanted is wanted and feed.seek_s is None:
        return CommandResult(at.state, feed_view(feed, at.feeds, at.now_s, at.faults))
    # What a schedule would have fired while paused is not missed.
    feed = replace(feed, wanted=wanted, since_s=at.now_s, seek_s=None)
    state = replace(at.state, feeds={**at.state.feeds, feed.spec.app: feed})
    return CommandResult(state, feed_view(feed, at.feeds, at.now_s, at.faults))


LIST = CommandEntry("feed.list", Nothing, FeedList, _list, "All streams and batches", anybodys, looks=True)
SHOW = CommandEntry("feed.show", FeedName, FeedView, _show, "One stream or batch", of_feed(Role.VIEW), looks=True)
PAUSE = CommandEntry(
    "feed.pause", MoveFeed, FeedView, _pause, "Drains and stops a stream, or lets a schedule rest", of_feed(Role.OPERATE)
)
RESUME = CommandEntry(
    "feed.resume", MoveFeed, FeedView, _resume, "Starts a paused stream or schedule again", of_feed(Role.OPERATE)
)
# What a feed remembers for itself is no decision of anybody's.
NOTES = CommandEntry(
    "feed.notes", FeedNotes, FeedNotes, _notes, "What a feed remembers between its workers' lives", the_clusters, told=False
)
DELETE = CommandEntry(
    "feed.delete", FeedName, FeedView, _delete, "Removes a stream or batch: drains it, then forgets it", of_feed(Role.DEPLOY)
)
COMMANDS = (LIST, SHOW, PAUSE, RESUME, NOTES, DELETE)
