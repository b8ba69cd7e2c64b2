"""Runs a replay to its end: where it begins is committed first, so one that was stopped goes on where it stood."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import Unreachable
from consumers.stream.counters import Counters
from consumers.stream.intake import ScorerPort
from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.kafka.offsets import OffsetRanges, set_group
from consumers.stream.log.port import Log, Member
from consumers.stream.loop import Loop
from consumers.stream.phases import WorkerPhase
from consumers.stream.replay.bounded_log import BoundedLog
from consumers.stream.replay.conditions import REPLAY_HEADER, Choose
from consumers.stream.sealed.book import SubjectBook
from consumers.stream.spec import StreamSpec

LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did: rows scored, rows that died (again), and rows that its conditions left out."""

    rows_out: int
    rows_dead: int
    rows_skipped: int


def run_replay(
    name: str,
    spec: StreamSpec,
    brokers: str,
    scoring: ScorerPort,
    stretch: OffsetRanges,
    choose: Choose,
    *,
    replay: str,
    look: Callable[[Counters, str], None] = lambda _counters, _message: None,
    subjects: SubjectBook | None = None,
) -> Replayed:
    """Scores the stretch; `spec` is what `spec_of_replay` made. Blocks; `look` is told now and then how it goes, and
    `subjects` has the keys of what is encrypted.

    Raises what the loop raises, and Unreachable where it was ended before its end.
    """
    ensure_topics(spec, brokers)
    group = spec.group_of(name)
    set_group(group, stretch.starts, brokers, spec.security, keep=True)
    bounded: list[BoundedLog] = []

    def make_log() -> Log:
        bounded[:] = [BoundedLog(open_log(spec, brokers, Member(group, group, group)), stretch.ends, choose)]
        return bounded[0]

    if not len(stretch):
        return Replayed(0, 0, 0)
    failed: list[BaseException] = []
    loop = Loop(name, spec, scoring, make_log, extra_headers=((REPLAY_HEADER, replay.encode()),), subjects=subjects)
    worker = threading.Thread(target=_run, args=(loop, failed), name="replay")
    worker.start()
    try:
        while worker.is_alive() and not (bounded and bounded[0].finished and not loop.in_flight_rows):
            worker.join(LOOK_EVERY_S)
            look(loop.counters, loop.message)
    finally:
        loop.stop()
        worker.join()
    if failed:
        raise failed[0]
    done = loop.counters
    if loop.phase is not WorkerPhase.STOPPED or loop.in_flight_rows or not bounded[0].finished:
        raise Unreachable(f"the replay ended early: {loop.message}", where=group, remedy=f"go on with --id {replay}")
    return Replayed(done.rows_out, done.rows_dead, bounded[0].rows_skipped)


def _run(loop: Loop, failed: list[BaseException]) -> None:
    try:
        loop.run()
    except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
        failed.append(error)
