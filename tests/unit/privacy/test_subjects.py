"""Fields under a key a data subject: they open where they belong, and never again once the subject is erased."""

from __future__ import annotations

import io
import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from cluster.access.callers import CLUSTER, Caller
from cluster.commands.privacy.subjects import REPLACE, SHOW, ReplaceSubjectKeys, SubjectKeysView
from cluster.control_plane import Told
from cluster.errors import BadArtifact, BadInput, Conflict, Forbidden, NotFound, Unreachable
from cluster.routing.routes import EMPTY, RouteTable, Stamp
from consumers.stream.codecs.formats import Codecs
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.loop import Loop
from consumers.stream.replay.conditions import spec_of_replay
from consumers.stream.sealed.book import AGAIN_S, FRESH_S, STALE_S, SubjectBook
from consumers.stream.spec import StreamSpec
from deployments.engines.datatypes import Array
from deployments.keys.hpke_key import new_hpke_pair
from deployments.keys.references import holder_of
from deployments.keys.ring import VARIABLE, KeyRing
from deployments.privacy.fields import open_field, owner_of, seal_field
from deployments.privacy.sealed_keys import open_subject_keys, seal_subject_keys
from deployments.privacy.subject_keys import DEPTH, SubjectKeys
from deployments.scoring.port import Scored
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.erasing import erase
from tests.support import waiting
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.stream_parts import SumScoring
from tests.unit.keys.test_keys import pair_in

until = partial(waiting.until, limit_s=20.0, every_s=0.001)
ADA, BOB = b"ada@example.org", b"bob@example.org"


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRing:
    pair_in(tmp_path, "prod")
    monkeypatch.setenv(VARIABLE, f"file:{tmp_path}")
    return KeyRing.from_environment()


class BrainControl:
    """A ControlPlane over a controller in this process. While `away`, every call raises Unreachable."""

    def __init__(self) -> None:
        self.brain = Brain()
        self.away = False
        self.calls = 0

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        return EMPTY

    async def push(self, told: Told) -> None:
        raise AssertionError("nothing is pushed here")

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        self.calls += 1
        if self.away:
            raise Unreachable("the controller is away", where="test", remedy="wait")
        return self.brain.controller.call(command, payload, caller)

    def erase(self, subject: str, ring: KeyRing) -> str:
        def show(name: str) -> SubjectKeysView:
            return SubjectKeysView.model_validate(self.brain.call(SHOW.name, name=name))

        def put(request: ReplaceSubjectKeys) -> object:
            return self.brain.call(REPLACE.name, **request.model_dump(mode="json"))

        return erase(subject, "subjects", ring, show, put)


def test_a_key_that_is_destroyed_is_gone_and_the_others_stay() -> None:
    whole = SubjectKeys.new()
    names = [whole.pseudonym(f"subject {i}") for i in range(40)]
    keys = [whole.key_of(name) for name in names]
    assert len(set(keys)) == 40
    assert {len(key or b"") for key in keys} == {32}
    left = whole
    for i, name in enumerate(names[:20]):
        left = left.without(name)
        assert [left.key_of(each) for each in names] == [None] * (i + 1) + keys[i + 1 :]
    assert left.without(names[0]) is left
    assert left.nodes.keys().isdisjoint(whole.nodes)  # the root is gone, and so is every node above one that was destroyed
    ways = [int(name[:16], 16) for name in names[:20]]
    assert not any(way >> (DEPTH - depth) == prefix for way, (depth, prefix) in itertools.product(ways, left.nodes))
    assert SubjectKeys.from_bytes(left.to_bytes()) == left
    assert len(left.to_bytes()) < 20 * 2700
    assert SubjectKeys.new().pseudonym("subject 0") != names[0]


def test_a_field_opens_where_it_belongs_only() -> None:
    keys = SubjectKeys.new()
    name = keys.pseudonym("ada")
    key = keys.key_of(name) or b""
    sealed = partial(seal_field, b"[1,2]", key, keys="subjects", pseudonym=name, topic="out", field="p")
    text = sealed()
    assert text != sealed()
    assert owner_of(text) == ("subjects", name)
    assert open_field(text, key, topic="out", field="p") == b"[1,2]"
    other = keys.pseudonym("bob")
    moved = [
        (text, key, "in", "p"),
        (text, key, "out", "q"),
        (text, keys.key_of(other) or b"", "out", "p"),
        (text.replace(name, other), key, "out", "p"),
        (text.replace("subjects/", "other/"), key, "out", "p"),
        (text[:-8] + "AAAAAAA=", key, "out", "p"),
        (text.partition(name)[0] + name + ":AAAA", key, "out", "p"),
        ("enc:1:x", key, "out", "p"),
    ]
    for changed, with_key, topic, field in moved:
        with pytest.raises(BadInput, match="does not open"):
            open_field(changed, with_key, topic=topic, field=field)
    assert [owner_of(each) for each in (None, 3, "", "enc:2:a", "[1,2]", ["enc:1:"])] == [None] * 6


def test_the_controller_keeps_what_it_cannot_open_and_says_whom_it_forgot_by_a_pseudonym(ring: KeyRing) -> None:
    control = BrainControl()
    clock = Clock()
    books = [SubjectBook(control, clock) for _ in range(2)]
    for book in books:
        book.open("subjects", "prod")
    name = books[0].pseudonym("subjects", "ada")
    key = books[0].key_of("subjects", name)
    assert key is not None
    assert books[1].key_of("subjects", books[1].pseudonym("subjects", "ada")) == key
    document = control.brain.controller._current().subjects["subjects"].document
    assert key.hex() not in document
    assert control.erase("ada", ring) == name
    assert books[0].key_of("subjects", name) == key  # for so long as it is fresh
    clock.now_s += FRESH_S
    assert books[0].key_of("subjects", name) is None
    assert books[0].key_of("subjects", books[0].pseudonym("subjects", "bob")) is not None
    audit = control.brain.controller._store.audit("")
    assert [(event.event, event.detail) for event in audit] == [
        ("subject keys made", {"keys": "subjects", "number": 1}),
        ("subject erased", {"keys": "subjects", "number": 2, "subject": name}),
    ]
    with pytest.raises(Conflict, match="replaced them meanwhile"):
        control.brain.call(REPLACE.name, name="subjects", number=2, document=document)
    with pytest.raises(BadArtifact):  # an older document under a later number
        open_subject_keys(document.replace('"sealed":"', '"sealed":"AAAA'), "subjects", 1, ring)
    with pytest.raises(Forbidden):
        open_subject_keys(document, "subjects", 2, ring)
    with pytest.raises(BadArtifact, match="they were changed"):
        open_subject_keys(re.sub('"sealed":"[^"]*"', '"sealed":"AAAA"', document), "subjects", 1, ring)
    with pytest.raises(NotFound, match="a stream with `encrypt` makes them"):
        books[0].key_of("others", name)


def test_the_command_erases_whom_its_input_names(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    control = BrainControl()
    SubjectBook(control).open("subjects", "prod")
    ask_brain(control.brain, monkeypatch)
    monkeypatch.setattr(sys, "stdin", io.StringIO("ada\n"))
    assert main(["erase", "-", "--json"]) == ExitCode.OK
    pseudonym = orjson.loads(capsys.readouterr().out)["subject"]
    book = SubjectBook(control)
    assert pseudonym == book.pseudonym("subjects", "ada")
    assert book.key_of("subjects", pseudonym) is None
    pair_in(tmp_path, "new")
    assert main(["erase", "eve", "--key", "new"]) == ExitCode.OK
    (tmp_path / "prod.key").unlink()  # what it ever sealed is lost, and the subjects that are left are not
    book = SubjectBook(control)
    assert [book.key_of("subjects", book.pseudonym("subjects", who)) is None for who in ("ada", "eve", "bob")] == [
        True,
        True,
        False,
    ]
    assert main(["erase", "bob", "--keys", "others"]) == ExitCode.NOT_FOUND
    assert main(["erase", ""]) == ExitCode.BAD_INPUT


def test_who_erases_at_the_same_time_loses_nothing(ring: KeyRing) -> None:
    control = BrainControl()
    SubjectBook(control).open("subjects", "prod")
    shown = threading.Event()

    def show(name: str) -> SubjectKeysView:
        view = SubjectKeysView.model_validate(control.brain.call(SHOW.name, name=name))
        if not shown.is_set():
            shown.set()
            control.erase("bob", ring)
        return view

    erase("ada", "subjects", ring, show, lambda asked: control.brain.call(REPLACE.name, **asked.model_dump(mode="json")))
    book = SubjectBook(control)
    assert [book.key_of("subjects", book.pseudonym("subjects", each)) for each in ("ada", "bob")] == [None, None]


def test_while_the_controller_is_away_keys_last_for_a_while(ring: KeyRing) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(control, clock)
    book.open("subjects", "prod")
    control.away = True
    clock.now_s += STALE_S - 1
    assert book.pseudonym("subjects", "ada")
    clock.now_s += 1
    with pytest.raises(Unreachable):
        book.pseudonym("subjects", "ada")


def test_a_controller_that_is_away_is_not_asked_for_every_record(ring: KeyRing) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(control, clock)
    book.open("subjects", "prod")
    control.away, control.calls = True, 0
    clock.now_s += FRESH_S
    names = [book.pseudonym("subjects", f"subject {i}") for i in range(100)]
    assert control.calls == 1
    clock.now_s += AGAIN_S
    assert all(book.key_of("subjects", name) for name in names)
    assert control.calls == 2
    control.away = False
    clock.now_s += AGAIN_S
    control.erase("subject 1", ring)
    assert book.key_of("subjects", names[1]) is None


def test_keys_that_are_known_are_not_sent_again(ring: KeyRing) -> None:
    control = BrainControl()
    SubjectBook(control).open("subjects", "prod")
    whole, same = (control.brain.call(SHOW.name, name="subjects", known=known) for known in (0, 1))
    assert (whole["number"], same["number"], same["document"]) == (1, 1, "")
    assert whole["document"]
    control.erase("ada", ring)
    assert control.brain.call(SHOW.name, name="subjects", known=1)["document"]


class Clock:
    """A clock that the test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def spec_of(**changes: Any) -> StreamSpec:
    document: dict[str, Any] = {
        "model": "m",
        "input": {"topic": "in", "partitions": 1} | changes.pop("input", {}),
        "output": {"topic": "out", "partitions": 1} | changes.pop("output", {}),
        "dead_letters": {"topic": "dead", "partitions": 1},
        "linger_ms": 1,
    }
    return StreamSpec.model_validate(document | changes)


class LabelScoring(SumScoring):
    """Gives label keys, which hold the answer."""

    def _score(self, rows: Array, keys: Sequence[bytes | None]) -> Scored:
        scored = super()._score(rows, keys)
        return replace(scored, label_keys=[f"1/1/{total:.9g}" for total in scored.outputs["sum"][:, 0].tolist()])


@contextmanager
def running(spec: StreamSpec, subjects: SubjectBook | None) -> Iterator[MemoryBroker]:
    broker = MemoryBroker()
    for topic in ("in", "out", "dead"):
        broker.create(topic, 1)
    loop = Loop("s", spec, LabelScoring(), lambda: MemoryLog(broker, "in", "g"), subjects=subjects)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield broker
    finally:
        loop.stop()
        thread.join(30)
        assert not thread.is_alive()


def put(broker: MemoryBroker, value: Any, key: bytes | None = ADA, who: bytes | None = None) -> None:
    broker.append("in", 0, Stored(key, orjson.dumps({"x": value}), (("who", who),) if who is not None else (), 1000))


def reason(record: Stored) -> str:
    return (dict(record.headers)["__connect.errors.exception.message"] or b"").decode()


@pytest.mark.parametrize("subject", ["key", "header:who"])
def test_answers_leave_encrypted_for_their_subjects(ring: KeyRing, subject: str) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(control, clock)
    spec = spec_of(output={"encrypt": {"fields": ["sum"], "key": "prod", "subject": subject}})
    named: Callable[[bytes], dict[str, Any]] = lambda whom: {"key": whom} if subject == "key" else {"key": b"1", "who": whom}  # noqa: E731
    with running(spec, book) as broker:
        out, dead = broker.topics["out"][0], broker.topics["dead"][0]
        put(broker, [1, 2, 3], **named(ADA))
        put(broker, [4, 5, 6], **named(BOB))
        put(broker, [7, 8, 9], key=None if subject == "key" else b"1")
        until(lambda: len(out) == 2 and len(dead) == 1)
        control.erase(ADA.decode(), ring)
        clock.now_s += FRESH_S
        put(broker, [1, 1, 1], **named(ADA))
        put(broker, [2, 2, 2], **named(BOB))
        until(lambda: len(out) == 3 and len(dead) == 2)
    assert not any(name == "headrace.label_key" for record in out for name, _ in record.headers)
    texts = [orjson.loads(record.value or b"")["sum"] for record in out]
    assert "names no subject" in reason(dead[0])
    assert "its subject was erased" in reason(dead[1])
    reader = SubjectBook(control)
    keys = [reader.key_of(*(owner_of(text) or ("", ""))) for text in texts]
    assert keys[0] is None
    assert [open_field(text, key or b"", topic="out", field="sum") for text, key in zip(texts[1:], keys[1:], strict=True)] == [
        b"[15.0]",
        b"[6.0]",
    ]


@pytest.mark.parametrize("erased", ["dead_letter", "null"])
def test_fields_that_come_encrypted_are_scored_and_stay_so_in_dead_letters(ring: KeyRing, erased: str) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(control, clock)
    book.open("subjects", "prod")

    def sealed(subject: bytes, value: bytes, topic: str = "in") -> str:
        name = book.pseudonym("subjects", subject.decode())
        return seal_field(value, book.key_of("subjects", name) or b"", keys="subjects", pseudonym=name, topic=topic, field="x")

    hers, his = sealed(ADA, b"[1,2,3]"), sealed(BOB, b"[4,5,6]")
    spec = spec_of(input={"decrypt": {"fields": ["x"], "erased": erased}})
    with running(spec, book) as broker:
        out, dead = broker.topics["out"][0], broker.topics["dead"][0]
        wrong = [
            [1, 2, 3],
            sealed(ADA, b"[1,2,3]", "elsewhere"),
            sealed(ADA, b"no json"),
            sealed(ADA, b'["7315"]'),
            his[:-9],
            "a",
            his.replace("subjects/", "of-nobody/"),
        ]
        for value in [hers, his, *wrong]:
            put(broker, value)
        until(lambda: len(out) == 2 and len(dead) == 7)
        control.erase(ADA.decode(), ring)
        clock.now_s += FRESH_S
        put(broker, hers)
        put(broker, his)
        until(lambda: len(out) == 3 and len(dead) == 8)
    assert [orjson.loads(record.value or b"")["sum"] for record in out] == [[6.0], [15.0], [15.0]]
    assert [orjson.loads(record.value or b"")["x"] for record in dead] == [*wrong, hers]  # as they came
    assert all("headrace.label_key" in dict(record.headers) for record in out)  # they are in clear, as the answers are
    told = [reason(record) for record in dead]
    assert not any("7315" in each for each in told)
    assert ["not encrypted" in each for each in told] == [True, False, False, False, False, True, False, False]
    assert "keys that are not known here" in told[6]
    assert "does not open" in told[1]
    assert ("was erased" in told[-1]) is (erased == "dead_letter")


def test_a_key_that_is_no_text_is_a_subject_too(ring: KeyRing) -> None:
    control = BrainControl()
    who = b"\x00\x00\x00\xff"
    with running(spec_of(output={"encrypt": {"fields": ["sum"], "key": "prod"}}), SubjectBook(control)) as broker:
        put(broker, [1, 2, 3], key=who)
        until(lambda: len(broker.topics["out"][0]) == 1)
    owner = owner_of(orjson.loads(broker.topics["out"][0][0].value or b"")["sum"])
    assert owner == ("subjects", control.erase(who.decode("utf-8", "surrogateescape"), ring))
    assert not broker.topics["dead"][0]


def test_a_field_that_is_no_output_is_told() -> None:
    spec = spec_of(output={"encrypt": {"fields": ["sum", "summ"], "key": "prod"}})
    with pytest.raises(BadInput, match=r"no output \['summ'\]"):
        Codecs(spec).of(SumScoring().signature("m"))


def test_a_stream_whose_keys_cannot_be_had_waits(ring: KeyRing) -> None:
    control = BrainControl()
    control.away = True
    spec = spec_of(output={"encrypt": {"fields": ["sum"], "key": "prod"}})
    with running(spec, SubjectBook(control)) as broker:
        put(broker, [1, 2, 3])
        control.away = False
        until(lambda: len(broker.topics["out"][0]) == 1)
    assert not broker.topics["dead"][0]


def test_documents_that_make_no_sense() -> None:
    encrypt = {"fields": ["sum"], "key": "prod"}
    for wrong in (
        {"input": {"topic": "", "topics": ["a", "b"], "decrypt": {"fields": ["x"]}}},
        {"input": {"format": "raw", "decrypt": {"fields": ["x"]}}},
        {"output": {"format": "arrow", "encrypt": encrypt}},
        {"output": {"encrypt": encrypt | {"fields": []}}},
        {"output": {"encrypt": encrypt | {"subject": "who"}}},
        {"output": {"encrypt": encrypt}, "explain": {"topic": "why"}},
    ):
        with pytest.raises(ValidationError):
            spec_of(**wrong)
    replayed = spec_of_replay(spec_of(input={"decrypt": {"fields": ["x"]}}), "s", "1", of_dead_letters=True, to_topic=None)
    assert replayed.input.decrypt is not None
    assert (replayed.input.topic, replayed.input.decrypt.topic) == ("dead", "in")


def test_sealed_for_the_public_half_alone(tmp_path: Path) -> None:
    _, public = new_hpke_pair()
    (tmp_path / "x.pub").write_text(public)
    document = seal_subject_keys(SubjectKeys.new(), "subjects", 1, holder_of("x", folder=tmp_path))
    with pytest.raises(Forbidden):
        open_subject_keys(document, "subjects", 1, KeyRing([]))
