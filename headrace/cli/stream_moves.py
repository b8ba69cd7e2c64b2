"""What `headrace stream replay | seek | drain` do: each waits until it is done, or says why it is not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.commands.feeds import FeedName, FeedView
from cluster.commands.streams.moves import ENDED, MoveEnded
from cluster.control_plane import ControlPlane
from cluster.errors import Conflict, HeadraceError, Unreachable
from cluster.watch.catalogue import ScoringWay
from consumers.stream.counters import Counters, WorkerStatus
from consumers.stream.kafka.kafka_python.client import DEFAULT_BROKERS
from consumers.stream.kafka.offsets import offset_ranges, set_group
from consumers.stream.replay.conditions import Condition, dead_letters, everything, spec_of_replay
from consumers.stream.replay.run import Replayed, run_replay
from consumers.stream.replay.times import milliseconds
from consumers.stream.sealed.book import SubjectBook, asking
from consumers.stream.spec import StreamSpec
from deployments.control.asking import ask_patiently
from headrace.client import ControlClient
from headrace.control_calls import current_user
from headrace.local.home import Settings
from headrace.local.ray.connection import joined_ray
from headrace.local.run_state import load_run

LOOK_EVERY_S = 0.5
Look = Callable[[Counters, str], None]


@dataclass(frozen=True, slots=True)
class ReplayWanted:
    """What to score again: the dead letters, or the input between two times (Unix, milliseconds)."""

    dead_letters: bool
    conditions: tuple[Condition, ...]
    from_ms: int | None
    to_ms: int | None
    to_topic: str | None
    replay: str


def brokers_of(spec: StreamSpec, settings: Settings) -> str:
    """The brokers of a stream, as its consumers find them."""
    run = load_run(settings.home)
    return spec.brokers or settings.bootstrap_servers or (run.addresses.broker if run else None) or DEFAULT_BROKERS


def replay(stream: FeedView, asked: ReplayWanted, settings: Settings, look: Look) -> Replayed:
    """Scores in this process, as a driver of the running Ray, with the versions that serve now."""
    spec = StreamSpec.model_validate(stream.spec)
    brokers = brokers_of(spec, settings)
    again = spec_of_replay(spec, stream.name, asked.replay, of_dead_letters=asked.dead_letters, to_topic=asked.to_topic)
    stretch = offset_ranges(again, brokers, from_ms=asked.from_ms, to_ms=asked.to_ms)
    choose = dead_letters(asked.conditions) if asked.dead_letters else everything
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with joined_ray(settings):
        # Ray reads its variables when it is imported, and the block above has just set them.
        from deployments.control.client import connect
        from deployments.observe.meters import Meters
        from deployments.observe.scorer_meter import ScorerMeter
        from deployments.scoring.scorer import RoutedScorer
        from deployments.scoring.scorer_thread import ScorerThread

        # As on a stream, rows count beside the profile once they are committed: here nobody takes them, since they are no news.
        meters = Meters()
        meter = ScorerMeter(meters, ScoringWay.ONLINE)
        with (
            _its_end(stream.name, connect()) as ended,
            ScorerThread(lambda: RoutedScorer(connect(), meters=meters, way=ScoringWay.STREAM, meter=meter)) as scoring,
        ):
            keys = SubjectBook(asking(connect()), actor=f"stream {stream.name}")
            done = run_replay(
                stream.name, again, brokers, scoring, stretch, choose, replay=asked.replay, look=look, subjects=keys
            )
            ended.append(f"replay {asked.replay}: {done.rows_out} scored, {done.rows_dead} failed again")
            return done


@contextmanager
def _its_end(stream: str, control: ControlPlane) -> Iterator[list[str]]:
    """Has recorded how a replay ended, in the words that the block gives, or by what it failed."""
    words, good = list[str](), False
    try:
        yield words
        good = True
    except BaseException as error:
        words = [error.kind if isinstance(error, HeadraceError) else type(error).__name__]
        raise
    finally:
        ended = MoveEnded(name=stream, actor=current_user(), event="stream.replay", words=" ".join(words), good=good)
        try:
            asyncio.run(ask_patiently(control.call, ENDED.name, ended))
        except HeadraceError:
            if good:  # else what failed first is told; the audit has that it was begun, and no end
                raise


def seek(control: ControlClient, name: FeedName, to: str, settings: Settings, *, timeout_s: float) -> FeedView:
    """Stops the stream, sets its group to `earliest`, `latest` or a time, and starts it again where it ran.

    All within `timeout_s`; whatever fails, it runs again where it ran. Raises Conflict where another consumer is in its group, or
    it does not stop in time.
    """
    until_s = time.monotonic() + timeout_s
    before = control.feed(name)
    spec = StreamSpec.model_validate(before.spec)
    brokers = brokers_of(spec, settings)
    when_ms = None if to in ("earliest", "latest") else milliseconds(to, "--to")
    with _put_back(control, name, before):
        control.pause_feed(name)
        stopped(control, name, _left(until_s))
        stretch = offset_ranges(spec, brokers, from_ms=when_ms, timeout_s=_left(until_s))
        starts = stretch.ends if to == "latest" else stretch.starts
        set_group(spec.group_of(name.name), starts, brokers, spec.security, timeout_s=_left(until_s))
    return control.resume_feed(name) if before.wanted == "running" else control.feed(name)


def drain(control: ControlClient, name: FeedName, *, timeout_s: float) -> FeedView:
    """Waits until nothing waits in the input, then stops the stream, all within `timeout_s`.

    Raises Conflict where that does not come about in time; then, as after Ctrl-C, the stream runs as before.
    """
    until_s = time.monotonic() + timeout_s
    while (left := _lag(before := control.feed(name))) != 0:
        if time.monotonic() > until_s:
            waits = "its workers have not reported" if left is None else f"{left} records wait"
            waits = f"{waits}; {before.message}" if before.message else waits
            raise Conflict(f"not drained: {waits}", where=name.name, remedy="look at `headrace stream status`, or wait longer")
        time.sleep(LOOK_EVERY_S)
    with _put_back(control, name, before):
        control.pause_feed(name)
        return stopped(control, name, _left(until_s))


def stopped(control: ControlClient, name: FeedName, timeout_s: float) -> FeedView:
    """Returns once nothing of the stream runs. Raises Conflict."""
    until_s = time.monotonic() + timeout_s
    while (stream := control.feed(name)).status != "stopped":
        if time.monotonic() > until_s:
            raise Conflict(
                f"did not stop in time, still {stream.status}: {stream.message}",
                where=name.name,
                remedy="look at `headrace stream status`, or give a longer --timeout",
            )
        time.sleep(LOOK_EVERY_S)
    return stream


@contextmanager
def _put_back(control: ControlClient, name: FeedName, before: FeedView) -> Iterator[None]:
    """What ran before runs again where the block fails, whatever it was, Ctrl-C too. Raises Unreachable where it can't be."""
    try:
        yield
    except BaseException as error:
        if before.wanted == "running":
            try:
                control.resume_feed(name)
            except HeadraceError as again:
                first = str(error) or type(error).__name__
                raise Unreachable(
                    f"the stream is left paused, it can't be resumed: {again.what}; first came: {first}",
                    where=name.name,
                    remedy=f"`headrace stream resume {name.name}`",
                ) from error
        raise


def _left(until_s: float) -> float:
    return max(until_s - time.monotonic(), 0.0)


def _lag(stream: FeedView) -> int | None:
    """What waits in the input, also behind transactions that others have left open; None where that is not known yet.

    A stream that is stopped takes nothing, whatever waits.
    """
    if stream.wanted != "running":
        raise Conflict("the stream is paused", where=stream.name, remedy="resume it first: what waits is not taken")
    workers = [WorkerStatus.model_validate(worker) for worker in stream.workers]
    if stream.status != "ready" or not workers:
        return None
    behind = sum(each.records for worker in workers for each in worker.open_transactions.values())
    return behind + sum(sum(worker.lag.values()) for worker in workers)
