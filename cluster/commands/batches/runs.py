"""Commands on a batch's runs: beginning one, going on with one, cancelling one. Each is decided on what its caller has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Literal

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message
from cluster.commands.feeds import FeedName, FeedView, feed_view
from cluster.commands.known import has_changed, staying_feed
from cluster.commands.rights import of_feed
from cluster.errors import Conflict
from cluster.schedule.fires import OPEN, Fire, asked_fire, cancelled, job_of
from cluster.state import Feed

RUN_ID = r"^[A-Za-z0-9._-]{1,80}$"


class SeenFire(Message):
    """How the last run of a batch stood when somebody decided about it, by its job; both empty where there was none."""

    job: str = ""
    state: str = ""


class BatchName(FeedName):
    """A command on one batch's runs. With `seen`, only where its last run still stands so: else Conflict. One that is open may
    have gone from waiting to running meanwhile."""

    kind: Literal["batch"] = "batch"
    seen: SeenFire | None = None


class RunBatch(BatchName):
    """Runs it once, now, in the cluster. `as_of` is the date that `{as_of}` in its input stands for; today where left out.

    Where a run was left unfinished, nothing is run unless it is named in `gives_up`.
    """

    as_of: date | None = None
    gives_up: str = Field(default="", pattern=f"^$|{RUN_ID}", description="the unfinished run that is given up")


class ResumeBatch(BatchName):
    """Goes on with the run `run`, which was left unfinished: its finished units are kept, and so is its version."""

    run: str = Field(pattern=RUN_ID)


def _run(at: Context, request: RunBatch) -> CommandResult:
    as_of = request.as_of.isoformat() if request.as_of is not None else ""
    return _ask(at, request, as_of=as_of, unfinished=request.gives_up, resumes=False)


def _resume(at: Context, request: ResumeBatch) -> CommandResult:
    return _ask(at, request, as_of="", unfinished=request.run, resumes=True)


def _ask(at: Context, request: BatchName, *, as_of: str, unfinished: str, resumes: bool) -> CommandResult:
    feed = _as_seen(at, request)
    busy = [fire for fire in feed.fires if fire.is_open]
    if busy:
        what = f"its run {job_of(request.name, busy[0])} is {busy[0].state}"
        raise Conflict(what, where=f"batch {request.name}", remedy="wait until it is over, or cancel it")
    asked = asked_fire(feed.fires, at.actor, at.now_s, as_of=as_of, unfinished=unfinished, resumes=resumes)
    return _with_fires(at, feed, (*feed.fires, asked))


def _cancel(at: Context, request: BatchName) -> CommandResult:
    feed = _as_seen(at, request)
    if not any(fire.is_open for fire in feed.fires):
        raise Conflict(
            "the cluster runs nothing of it",
            where=f"batch {request.name}",
            remedy="what a terminal began ends there, by Ctrl-C; what `--detach` began, by `ray job stop`",
        )
    return _with_fires(at, feed, [cancelled(fire, at.actor, at.now_s) for fire in feed.fires])


def _as_seen(at: Context, request: BatchName) -> Feed:
    feed = staying_feed(at, "batch", request.name)
    last = feed.fires[-1] if feed.fires else None
    now = SeenFire(job=job_of(request.name, last), state=last.state) if last is not None else SeenFire()
    seen = request.seen
    if seen is not None and (seen.job != now.job or not (seen.state == now.state or (seen.state in OPEN and now.state in OPEN))):
        what = f"it has moved on: {_words(now)} now, and {_words(seen)} when it was seen"
        raise has_changed(what, f"batch {request.name}")
    return feed


def _words(seen: SeenFire) -> str:
    return f"its last run, {seen.job}, is {seen.state}" if seen.job else "it has no run"


def _with_fires(at: Context, feed: Feed, fires: Sequence[Fire]) -> CommandResult:
    feed = replace(feed, fires=tuple(fires))
    state = replace(at.state, feeds={**at.state.feeds, feed.spec.app: feed})
    return CommandResult(state, feed_view(feed, at.feeds, at.now_s, at.faults))


_MOVES = of_feed(Role.OPERATE)
RUN = CommandEntry("batch.run", RunBatch, FeedView, _run, "Runs a batch once, now, in the cluster", _MOVES)
RESUME = CommandEntry("batch.resume", ResumeBatch, FeedView, _resume, "Goes on with a run that was left unfinished", _MOVES)
CANCEL = CommandEntry("batch.cancel", BatchName, FeedView, _cancel, "Ends what the cluster runs of a batch", _MOVES)
COMMANDS = (RUN, RESUME, CANCEL)
