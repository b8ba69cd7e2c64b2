"""Records that the broker refuses: found by smaller commits, made into letters that it takes, held where it takes none."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import orjson
import pytest

from cluster.errors import BadInput, Unreachable
from consumers.stream.commits import cut_up, next_plan
from consumers.stream.kafka.topic_settings import expect_possible, limits_in
from consumers.stream.log.memory_log import MemoryBroker, Stored
from consumers.stream.log.port import Origins, Outgoing, Partition, RecordRefused, Records, RecordTooLarge, TopicLimits
from consumers.stream.micro_batch import MicroBatch, SliceOutcome
from consumers.stream.outgoing.acceptable import MADE_KEY_HEADER, TIMESTAMP_HEADER, oversized, unfit
from consumers.stream.phases import WorkerPhase
from consumers.stream.refusals import Refusals, Refused
from consumers.stream.replay.conditions import dead_letters
from consumers.stream.stuck import Stuck
from tests.support import waiting
from tests.support.stream_parts import SumScoring
from tests.unit.stream.test_stream_loop import SPEC, count, make_broker, put, running, sums

until = partial(waiting.until, limit_s=30.0, every_s=0.001)
IN0, IN1 = Partition("in", 0), Partition("in", 1)
NOW_MS = 1_800_000_000_000
REFUSED = RecordRefused("no", where="b", remedy="r")


def outcome(partition: Partition, first: int, rows: int = 1, *, epoch: int = 1, dead: bool = False) -> SliceOutcome:
    return SliceOutcome(partition, epoch, first, first + rows, (), rows, 0 if dead else rows, rows if dead else 0)


def ready(*outcomes: SliceOutcome) -> MicroBatch:
    return MicroBatch([], [], sum(each.rows_in for each in outcomes), 0, outcomes=list(outcomes))


def records(partition: Partition, offsets: list[int], origin: Partition | None = None) -> Records:
    none = [None] * len(offsets)
    return Records(
        partition, 1, offsets, none, none, [()] * len(offsets), offsets, origins=Origins(origin, offsets) if origin else None
    )


def test_a_draft_brings_a_partition_to_its_furthest_slice() -> None:
    replayed = [
        replace(outcome(IN0, 5, 3), upto=10),
        replace(outcome(IN0, 6, 2), upto=9),
    ]  # 5, 7, 9 of one origin, 6, 8 of another
    plan = next_plan([ready(*replayed, outcome(IN1, 3))], {IN0: 1, IN1: 1}.get, None)
    assert (plan.upto, plan.firsts, plan.rows) == ({IN0: 10, IN1: 4}, {IN0: 5, IN1: 3}, 6)


def test_a_draft_takes_no_more_than_it_may_and_nothing_of_an_epoch_that_is_over() -> None:
    batches = [ready(outcome(IN0, 0, 3)), ready(outcome(IN1, 0, 2, epoch=0)), ready(outcome(IN0, 3, 1)), MicroBatch([], [], 1, 0)]
    plan = next_plan(batches, {IN0: 1, IN1: 1}.get, None)
    assert (plan.batches, plan.rows) == (3, 4)
    assert next_plan(batches, {IN0: 1, IN1: 1}.get, 5).batches == 2
    assert next_plan(batches, {IN0: 1, IN1: 1}.get, 1).batches == 1


def test_parts_follow_each_other_by_offset_whatever_slices_they_are_cut_from() -> None:
    slices = [records(IN0, [5, 7, 9], Partition("a", 0)), records(IN0, [6, 8], Partition("b", 0)), records(IN1, [1])]
    parts = cut_up(slices, 2)
    assert [sorted(offset for each in part for offset in each.offsets) for part in parts] == [[5, 6], [7, 8], [9], [1]]
    assert [each.origin.partition.topic for each in parts[0]] == ["a", "b"]
    assert cut_up(slices, 6) == [slices]


def bisect(poison: set[int], total: int, whole: int) -> tuple[list[int], list[int]]:
    """Plays a stream of one partition. Returns which rows became letters, and how many each commit held."""
    at, refusals, sizes = 0, Refusals(), list[int]()
    letters: list[int] = []
    while at < total:
        rows = min(whole, refusals.most_rows or whole, total - at)
        held = range(at, at + rows)
        plan = next_plan([ready(outcome(IN0, at, rows, dead=rows == 1 and (IN0, at) in refusals.refused))], {IN0: 1}.get, None)
        if any(row in poison and (IN0, row) not in refusals.refused for row in held):
            refusals = refusals.after_refusal(REFUSED, plan)
        else:
            letters += [row for row in held if (IN0, row) in refusals.refused]
            refusals = refusals.after_commit(plan, lambda _: True)
            at += rows
        sizes.append(rows)
        assert len(sizes) < 20 * (len(poison) + 1) * 20
    return letters, sizes


def test_halving_finds_each_record_and_the_commits_grow_back() -> None:
    letters, sizes = bisect({37}, 1000, 64)
    assert letters == [37]
    assert sizes[0] == sizes[-2] == 64
    assert len(sizes) < 1000 // 64 + 3 * 7
    chance = random.Random(5)
    for _ in range(50):
        poison = {chance.randrange(300) for _ in range(chance.randrange(12))}
        assert bisect(poison, 300, chance.randrange(1, 90))[0] == sorted(poison)


def test_a_letter_that_is_refused_is_made_legal_or_bare_and_then_nothing_more_can_be_done() -> None:
    answer, letter = (next_plan([ready(outcome(IN0, 4, dead=dead))], {IN0: 1}.get, None) for dead in (False, True))
    refusals = Refusals().after_refusal(REFUSED, answer)
    assert refusals.refused == {(IN0, 4): Refused(refusals.refused[IN0, 4].error)}
    refusals = refusals.after_refusal(REFUSED, letter)
    assert (refusals.refused[IN0, 4].legal, refusals.refused[IN0, 4].bare, refusals.hopeless) == (True, False, False)
    refusals = refusals.after_refusal(RecordTooLarge("large"), letter)
    assert (refusals.refused[IN0, 4].legal, refusals.refused[IN0, 4].bare, refusals.hopeless) == (True, True, False)
    assert refusals.after_refusal(REFUSED, letter).hopeless
    assert refusals.after_commit(letter, lambda _: True) == Refusals()
    assert Refusals().after_refusal(REFUSED, letter).refused[IN0, 4].legal  # it was a letter from the start


def test_what_others_took_over_narrows_no_commit() -> None:
    plan = next_plan([ready(outcome(IN0, 0, 8), outcome(IN1, 0, 8))], {IN0: 1, IN1: 1}.get, None)
    refusals = Refusals().after_refusal(REFUSED, plan)
    assert (refusals.most_rows, refusals.suspects) == (8, {IN0: 8, IN1: 8})
    after = refusals.after_commit(next_plan([ready(outcome(IN0, 0, 8))], {IN0: 1}.get, None), lambda partition: partition == IN0)
    assert after == Refusals()


def test_a_worker_is_stuck_from_its_second_recovery_at_one_offset_until_a_commit_passes_it() -> None:
    once = Stuck().after_failure("why", {IN0: 5, IN1: 2}, 0.0)
    assert once.message == ""
    twice = once.after_failure("why", {IN0: 5, IN1: 7}, 1.0)
    assert (twice.recoveries, twice.at) == (2, {IN0: 5})
    assert "in/0 from offset 5" in twice.message
    assert "why" in twice.message
    assert twice.after_commit({IN0: 5, IN1: 99}, lambda _: True) == twice
    assert twice.after_commit({IN0: 6}, lambda _: True) == Stuck()
    assert twice.after_commit({}, lambda _: False) == Stuck()
    assert once.after_failure("other", {IN0: 9}, 1.0).recoveries == 1
    reading = Stuck().after_failure("poll", {}, 0.0).after_failure("poll", {}, 1.0)
    assert "poll" in reading.message
    assert reading.after_turn(30.0) == reading
    assert reading.after_turn(62.0) == Stuck()


def test_settings_tell_what_a_topic_takes() -> None:
    told = {"max.message.bytes": "5100", "cleanup.policy": "compact,delete", "message.timestamp.after.max.ms": "3600000"}
    told["message.timestamp.before.max.ms"] = str(2**63 - 1)
    assert limits_in(told, 10_000) == TopicLimits(5000, True, None, 3_600_000)
    assert limits_in({**told, "message.timestamp.type": "LogAppendTime"}, 4000) == TopicLimits(4000, True)
    assert limits_in({"message.timestamp.difference.max.ms": "60000"}, 4000) == TopicLimits(4000, False, 60_000, 60_000)
    assert limits_in({}, 4000) == TopicLimits(4000)


@pytest.mark.parametrize(
    "told",
    [{"max.message.bytes": "500"}, {"min.insync.replicas": "3"}, {"message.timestamp.before.max.ms": "0"}],
    ids=lambda told: next(iter(told)),
)
def test_settings_that_refuse_every_record_are_named(told: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=f"out: {next(iter(told))}"):
        expect_possible("out", told, 2)
    expect_possible("out", {"min.insync.replicas": "2", "max.message.bytes": "4000"}, 2)
    expect_possible("out", {"min.insync.replicas": "2"}, None)


def test_times_and_keys_that_a_topic_will_not_take_are_seen_beforehand() -> None:
    times_ms = [NOW_MS, -1, 0, NOW_MS * 1000, NOW_MS - 59_000]
    out = Outgoing("out", 0, [b"k", b"k", b"k", b"k", None], [b"v"] * 5, [[]] * 5, times_ms)
    assert unfit(out, TopicLimits(1000), NOW_MS) == {}
    assert sorted(unfit(out, TopicLimits(1000, before_ms=60_000, after_ms=60_000), NOW_MS)) == [2, 3]
    assert sorted(unfit(out, TopicLimits(1000, before_ms=60_000), NOW_MS)) == [2]
    (only,) = unfit(out, TopicLimits(1000, keyed=True), NOW_MS).items()
    assert only[0] == 4
    assert "compacted" in str(only[1].error)


def compacted(broker: MemoryBroker, *topics: str) -> None:
    """Refuses records without a key, and says nothing of it beforehand."""
    broker.refuses = lambda topic, record: "no key" if topic in topics and record.key is None else ""


def test_a_refused_record_becomes_a_letter_and_its_neighbours_come_out_once_in_order() -> None:
    broker = make_broker()
    compacted(broker, "out")
    keyless = {6, 51, 52, 133}
    for i in range(200):
        put(broker, i, key=None if i in keyless else b"k")
    with running(broker, SumScoring()) as loop:
        until(lambda: count(broker, "out") + count(broker, "dead") == 200)
        until(lambda: loop.stuck.recoveries == 0)
        assert (loop.phase, loop.message) == (WorkerPhase.RUNNING, "")
        assert loop.counters.recoveries < 60
    assert sums(broker, 0) == [i for i in range(0, 200, 2) if i not in keyless]
    assert sums(broker, 1) == [i for i in range(1, 200, 2) if i not in keyless]
    dead = broker.topics["dead"][0]
    assert sorted(int(orjson.loads(record.value or b"")["x"][0]) for record in dead) == sorted(keyless)
    headers = dict(dead[0].headers)
    assert headers["__connect.errors.stage"] == b"KAFKA_PRODUCE"
    assert b"no key" in (headers["__connect.errors.exception.message"] or b"")
    assert dead[0].key is None


def test_a_letter_that_is_refused_too_gets_a_key_and_the_time() -> None:
    broker = make_broker()

    def refuses(topic: str, record: Stored) -> str:
        return "no key" if record.key is None else "time" if record.timestamp_ms < 1_000_000 else ""

    broker.refuses = refuses
    broker.append("in", 0, Stored(b"a", orjson.dumps({"x": [1, 0, 0]}), (), NOW_MS))
    broker.append("in", 0, Stored(None, b"{broken", (("trace", b"t"),), 7))
    broker.append("in", 0, Stored(b"a", orjson.dumps({"x": [3, 0, 0]}), (), 8))
    broker.append("in", 0, Stored(b"a", orjson.dumps({"x": [4, 0, 0]}), (), NOW_MS))
    with running(broker, SumScoring()):
        until(lambda: count(broker, "out") == 2 and count(broker, "dead") == 2)
    assert sums(broker, 0) == [1.0, 4.0]
    keyless, early = broker.topics["dead"][0]
    assert (keyless.key, keyless.value) == (b"in/0/1", b"{broken")
    told = dict(keyless.headers)
    assert (told[MADE_KEY_HEADER], told[TIMESTAMP_HEADER], told["trace"]) == (b"true", b"7", b"t")
    assert told["__connect.errors.stage"] == b"VALUE_CONVERTER"  # it died of something else
    assert early.key == b"a"
    assert MADE_KEY_HEADER not in dict(early.headers)
    assert dict(early.headers)[TIMESTAMP_HEADER] == b"8"
    (again,) = dead_letters(())(
        Records(
            Partition("dead", 0),
            1,
            [0, 1],
            [keyless.key, early.key],
            [b"", b""],
            [keyless.headers, early.headers],
            [NOW_MS, NOW_MS],
        )
    )
    assert (list(again.keys), list(again.timestamps_ms)) == ([None, b"a"], [7, 8])
    assert list(again.headers) == [[("trace", b"t")], []]


def test_what_is_known_beforehand_costs_no_recovery() -> None:
    broker = make_broker()
    compacted(broker, "out", "dead")
    broker.limits = {"out": TopicLimits(2**20, keyed=True, after_ms=1000), "dead": TopicLimits(2**20, keyed=True, after_ms=1000)}
    put(broker, 0)
    put(broker, 2, key=None)
    broker.append("in", 0, Stored(b"k", orjson.dumps({"x": [4, 0, 0]}), (), 2**50))
    with running(broker, SumScoring()) as loop:
        until(lambda: count(broker, "out") == 1 and count(broker, "dead") == 2)
        assert loop.counters.recoveries == 0
    keyless, late = broker.topics["dead"][0]
    assert keyless.key == b"in/0/1"
    assert dict(late.headers)[TIMESTAMP_HEADER] == str(2**50).encode()
    assert late.timestamp_ms < 2**50
    assert b"message.timestamp" in (dict(late.headers)["__connect.errors.exception.message"] or b"")


def test_a_record_of_which_nothing_is_taken_is_held_and_said_and_goes_on_once_it_is() -> None:
    broker = make_broker()
    broker.refuses = lambda topic, record: "not this one" if b"77" in (record.value or b"") or topic == "dead" else ""
    for i in (0, 2, 77 * 2, 6):
        broker.append("in", 0, Stored(b"k", orjson.dumps({"x": [i // 2, 0, 0]}), (), NOW_MS))
    with running(broker, SumScoring()) as loop:
        until(lambda: loop.stuck.recoveries >= 5)
        until(lambda: loop.phase is WorkerPhase.HOLDING)
        assert "in/0 from offset 2" in loop.message
        assert "not this one" in loop.message
        assert (count(broker, "out"), count(broker, "dead")) == (2, 0)
        broker.refuses = lambda *_: ""
        until(lambda: count(broker, "out") == 3 and count(broker, "dead") == 1)
        until(lambda: loop.phase is WorkerPhase.RUNNING)
        assert (loop.message, loop.stuck) == ("", Stuck())


def test_commits_that_fail_at_one_offset_are_told_and_the_message_stays() -> None:
    broker = make_broker()
    broker.fail_next = [Unreachable("NotEnoughReplicas") for _ in range(4)]
    put(broker, 0)
    with running(broker, SumScoring()) as loop:
        until(lambda: loop.stuck.recoveries == 3)
        assert "NotEnoughReplicas" in loop.message
        until(lambda: count(broker, "out") == 1 and loop.phase is WorkerPhase.RUNNING)
        assert loop.stuck == Stuck()
        assert loop.counters.recoveries == 4


def test_a_letter_for_a_topic_that_takes_next_to_nothing_still_says_where_its_record_lies() -> None:
    broker = make_broker()
    broker.limits = {"dead": TopicLimits(2048)}
    broker.append("in", 0, Stored(b"k", b"{" * 5000, (("trace", b"t" * 5000),), NOW_MS))
    with running(broker, SumScoring(), SPEC.model_copy(update={"max_batch_rows": 1})):
        until(lambda: count(broker, "dead") == 1)
    (letter,) = broker.topics["dead"][0]
    out = Outgoing("dead", 0, [letter.key], [letter.value], [list(letter.headers)], [letter.timestamp_ms])
    assert oversized(out, 2048) == []
    assert dict(letter.headers)["__connect.errors.offset"] == b"0"
