"""Acts on streams for people: waits for brokers and scores again, so that no gateway does. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from cluster.commands.feeds import SHOW, FeedName
from cluster.commands.streams.moves import ENDED, MoveEnded, StreamDocument
from cluster.control_plane import ControlPlane
from cluster.errors import Conflict
from consumers.stream.counters import Counters
from consumers.stream.intake import ScorerPort
from consumers.stream.kafka.offsets import OffsetRanges, offset_ranges
from consumers.stream.log.port import Partition
from consumers.stream.operate.letters import OfReason
from consumers.stream.operate.reading_letters import newest_letters, one_letter
from consumers.stream.operate.running import Headway, MoveBook, Say
from consumers.stream.operate.seeking import check_plan, move_group, seek_plan
from consumers.stream.replay.conditions import dead_letters, spec_of_replay
from consumers.stream.replay.run import run_replay
from consumers.stream.sealed.book import SubjectBook, asking
from consumers.stream.spec import StreamSpec
from deployments.control.asking import ask_patiently
from deployments.gateway.console.streams import (
    DeadLetter,
    DeadLetters,
    LetterChoice,
    LetterPlace,
    LetterRange,
    SeekPlan,
    StreamMove,
)

STOP_S, SEEK_S = 90.0, 120.0
STILL_S = 600.0  # a replay that gets no further is given up: nothing else can be done to its stream meanwhile
LOOK_EVERY_S = 0.5


class StreamOperator:
    """Its methods are those of `StreamOperations`, and block; from any thread. `brokers` is for documents that name none;
    `scoring` opens what scores again."""

    def __init__(self, control: ControlPlane, brokers: str, scoring: Callable[[], AbstractContextManager[ScorerPort]]) -> None:
        self._control, self._brokers, self._scoring = control, brokers, scoring
        self._moves = MoveBook()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._moves.busy

    def dead_letters(self, stream: StreamDocument, before: tuple[LetterRange, ...], reason: str) -> DeadLetters:
        """See StreamOperations."""
        return newest_letters(stream, self._brokers_of(stream), before, reason)

    def dead_letter(self, stream: StreamDocument, place: LetterPlace) -> DeadLetter:
        """See StreamOperations."""
        return one_letter(stream, self._brokers_of(stream), place)

    def preview(self, stream: StreamDocument, to: str) -> SeekPlan:
        """See StreamOperations."""
        return seek_plan(stream, self._brokers_of(stream), to)

    def check(self, stream: StreamDocument, plan: SeekPlan) -> None:
        """See StreamOperations."""
        self._moves.check_idle(stream.name)  # else it would be stopped for nothing
        check_plan(stream, self._brokers_of(stream), plan)

    def moves(self, stream: str) -> tuple[StreamMove, ...]:
        """See StreamOperations."""
        return self._moves.of(stream)

    def replay(self, stream: StreamDocument, choice: LetterChoice, replay: str, by: str) -> StreamMove:
        """See StreamOperations."""

        def work(say: Say) -> str:
            return self._replay(stream, choice, replay, say)

        return self._moves.begin(stream.name, "replay", replay, by, work, self._told(stream.name, None))

    def seek(self, stream: StreamDocument, plan: SeekPlan, by: str, stopped_s: float | None) -> StreamMove:
        """See StreamOperations."""

        def work(say: Say) -> str:
            say("it waits until its workers have stopped")
            self._await_stop(stream.name)
            say("its group is being moved")
            move_group(stream, self._brokers_of(stream), plan, SEEK_S)
            skips, repeats = sum(part.skips for part in plan.parts), sum(part.repeats for part in plan.parts)
            return f"moved to {plan.to}: up to {skips} records skipped, up to {repeats} to be scored again"

        name = f"seek-{time.time_ns()}"
        return self._moves.begin(stream.name, "seek", name, by, work, self._told(stream.name, stopped_s))

    def _replay(self, stream: StreamDocument, choice: LetterChoice, replay: str, say: Say) -> str:
        spec, brokers = StreamSpec.model_validate(stream.spec), self._brokers_of(stream)
        again = spec_of_replay(spec, stream.name, replay, of_dead_letters=True, to_topic=None)
        topic = again.input.topic
        stretch = chosen_stretch(offset_ranges(again, brokers), topic, choice)
        only = _only(topic, choice)
        conditions = (OfReason(choice.reason),) if choice.reason else ()

        headway = Headway(STILL_S)

        def look(counters: Counters, message: str) -> None:
            headway.look(counters.commits, f"stream {stream.name}", message)
            say(f"{counters.rows_in} taken {message}".rstrip())

        with self._scoring() as scoring:
            done = run_replay(
                stream.name,
                again,
                brokers,
                scoring,
                stretch,
                dead_letters(conditions, only),
                replay=replay,
                look=look,
                subjects=SubjectBook(asking(self._control), actor=f"stream {stream.name}"),
            )
        return f"{done.rows_out} scored, {done.rows_dead} failed again"

    def _await_stop(self, name: str) -> None:
        until_s, feed = time.monotonic() + STOP_S, FeedName(kind="stream", name=name)
        while (seen := asyncio.run(ask_patiently(self._control.call, SHOW.name, feed)))["status"] != "stopped":
            if time.monotonic() > until_s:
                what = f"it did not stop in {STOP_S:g} s, still {seen['status']}: {seen['message']}"
                raise Conflict(what, where=f"stream {name}", remedy="look at its workers, then try again")
            time.sleep(LOOK_EVERY_S)  # the controller tells nobody when it has stopped

    def _told(self, name: str, stopped_s: float | None) -> Callable[[StreamMove], None]:
        def told(move: StreamMove) -> None:
            request = MoveEnded(
                name=name,
                actor=move.by,
                event="stream.replay" if move.kind == "replay" else "stream.seek",
                words=move.words[:2000],
                good=move.state == "done",
                stopped_s=stopped_s,
            )
            asyncio.run(ask_patiently(self._control.call, ENDED.name, request))

        return told

    def _brokers_of(self, stream: StreamDocument) -> str:
        return str(stream.spec.get("brokers") or self._brokers)


def chosen_stretch(there: OffsetRanges, topic: str, choice: LetterChoice) -> OffsetRanges:
    """What a replay reads of what is there: the ranges that were looked at, and nothing of other partitions. Pure."""
    starts, ends = dict(there.ends), dict(there.ends)
    for one in choice.ranges:
        partition = Partition(topic, one.partition)
        if partition in ends:
            first, last = there.starts[partition], there.ends[partition]
            picked = [place.offset for place in choice.only if place.partition == one.partition]
            begin, end = (min(picked), max(picked) + 1) if picked else (one.begin, one.end)
            if choice.only and not picked:
                continue
            starts[partition], ends[partition] = min(max(begin, first), last), min(max(end, first), last)
    return OffsetRanges(starts, ends)


def _only(topic: str, choice: LetterChoice) -> dict[Partition, set[int]] | None:
    if not choice.only:
        return None
    found: dict[Partition, set[int]] = {}
    for place in choice.only:
        found.setdefault(Partition(topic, place.partition), set()).add(place.offset)
    return found
