"""What it would mean to move a stream, and moving it: no further than was looked at."""

from __future__ import annotations

from cluster.commands.streams.moves import StreamDocument
from cluster.errors import BadInput, Conflict
from cluster.state import Wanted
from consumers.stream.kafka.offsets import committed_offsets, offset_ranges, set_group
from consumers.stream.kafka.peeking import peeking
from consumers.stream.log.port import Partition
from consumers.stream.replay.times import milliseconds
from consumers.stream.spec import StreamSpec
from deployments.gateway.console.streams import SeekPart, SeekPlan

EARLIEST, LATEST = "earliest", "latest"
TIMES_S = 5.0
PARTITION_DIGITS_MOST = 9  # of what fits 32 bits
LOOK_AGAIN = "look again at what a seek would do, and decide anew"


def seek_plan(stream: StreamDocument, brokers: str, to: str) -> SeekPlan:
    """See `StreamOperations.preview`. Blocks."""
    spec = StreamSpec.model_validate(stream.spec)
    when_ms = None if to in (EARLIEST, LATEST) else milliseconds(to, "to")
    stretch = offset_ranges(spec, brokers, from_ms=when_ms)
    targets = stretch.ends if to == LATEST else stretch.starts
    stands = committed_offsets(spec.group_of(stream.name), targets, brokers, spec.security)
    with peeking(brokers, spec.security, TIMES_S) as look:
        # Each place is asked for apart: of a partition a look reads one place at a time.
        at_ms, to_ms = look.times_ms(stands), look.times_ms(targets)
    parts = [
        SeekPart(
            partition=label(partition),
            at=stands.get(partition),
            to=target,
            at_ms=at_ms.get(partition),
            to_ms=to_ms.get(partition),
        )
        for partition, target in sorted(targets.items())
    ]
    return SeekPlan(to=to, parts=tuple(parts))


def check_plan(stream: StreamDocument, brokers: str, plan: SeekPlan) -> None:
    """See `StreamOperations.check`. Blocks."""
    spec = StreamSpec.model_validate(stream.spec)
    stretch = offset_ranges(spec, brokers)
    where = f"stream {stream.name}"
    planned = {partition_of(part.partition): part for part in plan.parts}
    if planned.keys() != stretch.ends.keys():
        raise Conflict("its input has other partitions by now", where=where, remedy=LOOK_AGAIN)
    stands = committed_offsets(spec.group_of(stream.name), planned, brokers, spec.security)
    runs = stream.seen.wanted is Wanted.RUNNING
    for partition, part in planned.items():
        now = stands.get(partition)
        went_on = runs and (part.at is None or (now is not None and now >= part.at))
        if now != part.at and not went_on:
            what = f"partition {part.partition} stands elsewhere than when it was looked at"
            raise Conflict(what, where=where, remedy=LOOK_AGAIN)
        if part.to > stretch.ends[partition]:
            raise Conflict(f"partition {part.partition} does not reach so far", where=where, remedy=LOOK_AGAIN)


def move_group(stream: StreamDocument, brokers: str, plan: SeekPlan, timeout_s: float) -> None:
    """Sets the stream's group, once it has no members any more, to where the plan says: what came since is neither skipped nor
    repeated. Blocks; raises as `set_group`."""
    spec = StreamSpec.model_validate(stream.spec)
    starts = {partition_of(part.partition): part.to for part in plan.parts}
    set_group(spec.group_of(stream.name), starts, brokers, spec.security, timeout_s=timeout_s)


def label(partition: Partition) -> str:
    """A partition as a plan names it."""
    return f"{partition.topic}/{partition.number}"


def partition_of(named: str) -> Partition:
    """The partition of that name. Raises BadInput."""
    topic, _, number = named.rpartition("/")
    if not topic or not number.isdecimal() or len(number) > PARTITION_DIGITS_MOST:
        raise BadInput("no partition is called so", where=f"partition {named[:80]}", remedy=LOOK_AGAIN)
    return Partition(topic, int(number))
