"""Dead letters summed up and shown without what is kept back; which of them a replay takes; what is under way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from cluster.commands.streams.moves import StreamDocument, StreamSeen
from cluster.errors import BadInput, Conflict, Unreachable
from cluster.state import Wanted
from consumers.stream.counters import Counters
from consumers.stream.kafka.offsets import OffsetRanges
from consumers.stream.kafka.peeking import PeekedRecord
from consumers.stream.log.port import Partition
from consumers.stream.operate import stream_operator
from consumers.stream.operate.letters import LetterBook, OfReason, listed_letter, shown_letter
from consumers.stream.operate.redacting import HIDDEN, TEXT_MOST, shown_value
from consumers.stream.operate.running import Headway, MoveBook
from consumers.stream.operate.seeking import partition_of
from consumers.stream.operate.stream_operator import STILL_S, StreamOperator, chosen_stretch
from consumers.stream.outgoing.answers import CONNECT
from consumers.stream.sealed.section import DecryptedInput
from consumers.stream.spec import Format, InputEnvelope, StreamInput
from deployments.gateway.console.streams import LetterChoice, LetterPlace, LetterRange, SeekPart, SeekPlan, ShownAs, StreamMove
from tests.support.gateway_fakes import FakeControl, table
from tests.unit.stream.test_stream_replay import SPEC

HOSTILE = "<img src=x onerror=alert(1)>"
SEEN = StreamSeen(digest="d", wanted=Wanted.RUNNING, since_s=0.0)


def letter(offset: int, message: str, value: bytes | None = b"{}", partition: int = 0) -> PeekedRecord:
    about = {"topic": "in", "partition": "1", "offset": str(offset), "stage": "TASK_PUT", "exception.message": message}
    headers = [("customer", b"ann"), *((CONNECT + name, text.encode()) for name, text in about.items())]
    return PeekedRecord(Partition("dead", partition), offset, 1000 * offset, b"ann", value, headers)


def document(*redact: str) -> StreamDocument:
    return StreamDocument(name="s", model="m", spec=SPEC.model_dump(mode="json"), seen=SEEN, inputs=("x", "name"), redact=redact)


def test_alike_failures_are_one_reason_with_its_count() -> None:
    records = [letter(n, f"expected 3 values, got {n}") for n in range(4)] + [letter(9, "not JSON")]
    book = LetterBook()
    book.add(map(listed_letter, records))
    assert [(reason.message, reason.letters) for reason in book.reasons] == [("expected # values, got #", 4), ("not JSON", 1)]
    assert (book.reasons[0].first_ms, book.reasons[0].last_ms) == (0, 3000)
    assert [row.offset for row in book.rows] == [9, 3, 2, 1, 0]
    assert book.rows[0].origin == "in/1/9"
    only = LetterBook(book.reasons[1].key)
    only.add(map(listed_letter, records))
    assert ([row.offset for row in only.rows], only.letters) == ([9], 5)
    chosen = OfReason(book.reasons[0].key)
    assert [chosen.holds(dict(record.headers)) for record in records] == [True] * 4 + [False]


def test_a_letter_is_shown_whole_where_nothing_is_kept_back() -> None:
    shown = shown_letter(letter(7, "boom 7", HOSTILE.encode()), document())
    assert (shown.value, shown.shown_as, shown.note) == (HOSTILE, ShownAs.TEXT, "")
    assert (shown.key, shown.headers, shown.reason.message) == ("ann", (("customer", "ann"),), "boom 7")


def test_what_the_models_document_keeps_back_is_not_shown_nor_what_nobody_knows() -> None:
    value = json.dumps({"x": [1, 2], "name": "Ann Li", "nmae": "Ann Li"}).encode()
    shown = shown_letter(letter(7, "boom", value), document("name"))
    assert json.loads(shown.value) == {"x": [1, 2], "name": HIDDEN, "nmae": HIDDEN}
    assert "Ann" not in shown.model_dump_json()
    for nested in ({"name": "Ann Li"}, [[1, {"name": "Ann Li"}]]):
        wrapped = shown_letter(letter(7, "boom", json.dumps({"x": nested}).encode()), document("name"))
        assert json.loads(wrapped.value) == {"x": HIDDEN}
    assert "ann" not in (shown.key, *(value for _, value in shown.headers))


def test_what_should_have_come_encrypted_is_not_shown_where_it_came_in_clear() -> None:
    stream = document()
    given = StreamInput(topic="in", fields={"name": "person"}, decrypt=DecryptedInput(fields=("person",)))
    stream = stream.model_copy(update={"spec": stream.spec | {"input": given.model_dump(mode="json")}})
    shown = shown_letter(letter(7, "it is in clear", b'{"x": 1, "person": "Ann Li"}'), stream)
    assert json.loads(shown.value) == {"x": 1, "person": HIDDEN}
    assert "Ann" not in shown.model_dump_json()


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"format": Format.RAW}, b"Ann Li"),
        ({"format": Format.ARROW}, b"Ann Li"),
        ({}, b"{broken Ann Li"),
        ({}, b'["Ann Li"]'),
        ({}, b"[" * 100_000),
        ({}, b'{"x": "' + b"Ann Li" * 200_000 + b'"}'),
    ],
)
def test_what_cant_be_taken_apart_is_not_shown_at_all(given: dict[str, Any], value: bytes) -> None:
    shown = shown_value(value, StreamInput(topic="in", **given), inputs=("x",), redact=("name",))
    assert (shown.shown_as, shown.text) == (ShownAs.NOTHING, "")
    assert "not shown" in shown.note


def test_fields_that_lie_elsewhere_are_found_there() -> None:
    given = StreamInput(topic="in", fields={"x": "/a/x", "name": "/a/n"}, envelope=InputEnvelope.CLOUDEVENTS)
    value = {"a": {"x": 1, "n": "Ann"}, "data": {"a": {"x": 2, "n": "Ann"}}, "subject": "Ann"}
    shown = shown_value(json.dumps(value).encode(), given, inputs=("x", "name"), redact=("name",))
    assert json.loads(shown.text) == {"a": {"x": 1, "n": HIDDEN}, "data": {"a": {"x": 2, "n": HIDDEN}}, "subject": HIDDEN}


def test_what_is_shown_is_bounded_and_bytes_are_told_as_such() -> None:
    long = shown_value(b"x" * 100_000, StreamInput(topic="in"), inputs=(), redact=())
    assert (len(long.text), long.note) == (TEXT_MOST, "the first 16384 characters of 100000")
    raw = shown_value(bytes(range(256)) * 8, StreamInput(topic="in"), inputs=(), redact=())
    assert (raw.shown_as, raw.text[:9], raw.note) == (ShownAs.HEX, "0001 0203", "the first 1024 bytes of it")
    turned = shown_value("a\u202eb\u2066c".encode(), StreamInput(topic="in"), inputs=(), redact=())
    assert turned.text == "a\\u202eb\\u2066c"
    assert shown_value(None, StreamInput(topic="in"), inputs=(), redact=()).shown_as is ShownAs.NOTHING


def test_a_replay_reads_what_was_looked_at_and_nothing_that_came_since() -> None:
    zero, one, two = (Partition("dead", number) for number in range(3))
    there = OffsetRanges({zero: 5, one: 0, two: 0}, {zero: 90, one: 50, two: 7})
    ranges = (LetterRange(partition=0, begin=2, end=80), LetterRange(partition=1, begin=40, end=60))
    whole = chosen_stretch(there, "dead", LetterChoice(ranges=ranges))
    assert (whole.starts, whole.ends) == ({zero: 5, one: 40, two: 7}, {zero: 80, one: 50, two: 7})
    places = (LetterPlace(partition=0, offset=20), LetterPlace(partition=0, offset=30))
    some = chosen_stretch(there, "dead", LetterChoice(ranges=ranges, only=places))
    assert (some.starts, some.ends) == ({zero: 20, one: 50, two: 7}, {zero: 31, one: 50, two: 7})


def test_one_thing_at_a_time_is_done_to_a_stream_and_its_end_is_told() -> None:
    told: list[StreamMove] = []
    go, ended = threading.Event(), threading.Event()

    def wait() -> str:
        go.wait(10)
        return "2 scored"

    def note(move: StreamMove) -> None:
        told.append(move)
        ended.set()

    book = MoveBook()
    book.begin("s", "replay", "r1", "ann", lambda say: (say("begun"), wait())[1], note)
    with pytest.raises(Conflict, match="a replay is under way, begun by ann"):
        book.begin("s", "seek", "k1", "bob", lambda _: "", note)
    operator = StreamOperator(FakeControl(table()), "", nullcontext)  # type: ignore[arg-type]  # nothing is scored
    operator._moves = book
    with pytest.raises(Conflict, match="a replay is under way, begun by ann"):  # before anybody stops it for a seek
        operator.check(document(), SeekPlan(to="latest", parts=(SeekPart(partition="in/0", at=0, to=1),)))
    go.set()
    assert ended.wait(10)
    assert (told[0].state, told[0].words) == ("done", "2 scored")

    def fail(_: object) -> str:
        raise Unreachable("the broker is away")

    ended.clear()
    book.begin("other", "seek", "k2", "bob", fail, note)
    assert ended.wait(10)
    assert told[1].state == "failed"
    assert "the broker is away" in told[1].words


def test_a_replay_that_gets_no_further_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(stream_operator, "Headway", lambda most_s: Headway(most_s, lambda: now_s[0]))
    monkeypatch.setattr(stream_operator, "offset_ranges", lambda *_: OffsetRanges({}, {}))

    def run(*_: object, look: Callable[[Counters, str], None], **__: object) -> None:
        for commits in (0, 1, 1):
            look(Counters(commits=commits), "no version serves")
            now_s[0] += STILL_S
        look(Counters(commits=2), "no version serves")
        for _turn in range(3):
            now_s[0] += STILL_S
            look(Counters(commits=2), "no version serves")

    monkeypatch.setattr(stream_operator, "run_replay", run)
    operator = StreamOperator(FakeControl(table()), "", nullcontext)  # type: ignore[arg-type]  # nothing is scored
    choice = LetterChoice(ranges=(LetterRange(partition=0, begin=0, end=9),))
    with pytest.raises(Unreachable, match="nothing of it got on for 600 s: no version serves"):
        operator._replay(document(), choice, "r1", lambda _words: None)
    assert now_s[0] == 5 * STILL_S


@pytest.mark.parametrize("named", ["clicks", "clicks/one", f"clicks/{'9' * 5000}"])
def test_what_is_no_partition_of_a_plan_is_refused(named: str) -> None:
    with pytest.raises(BadInput, match="no partition is called so"):
        partition_of(named)


def test_who_asks_what_was_done_to_streams_leaves_nothing_behind() -> None:
    book = MoveBook()
    assert book.of("nobody's") == ()
    book.check_idle("nobody's")
    assert not book._moves
