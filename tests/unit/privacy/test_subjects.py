"""Fields under a key a data subject: they open where they belong, and never again once the subject is erased."""

from __future__ import annotations

import hmac
import io
import itertools
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError

from cluster.access.callers import CLUSTER, Caller
from cluster.commands.privacy.subjects import (
    BRANCHES,
    REPLACE,
    SHOW,
    ReplaceSubjectKeys,
    SubjectBranches,
    SubjectBranchesAsked,
    SubjectKeysView,
)
from cluster.control_plane import Told
from cluster.errors import BadArtifact, BadInput, Conflict, Forbidden, NotFound, Unreachable
from cluster.routing.routes import EMPTY, RouteTable, Stamp
from consumers.stream.codecs.formats import Codecs
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.loop import Loop
from consumers.stream.replay.conditions import spec_of_replay
from consumers.stream.sealed.book import AGAIN_S, FRESH_S, STALE_S, SubjectBook, asking
from consumers.stream.spec import StreamSpec
from deployments.engines.datatypes import Array
from deployments.keys.hpke_key import new_hpke_pair
from deployments.keys.references import holder_of
from deployments.keys.ring import VARIABLE, KeyRing
from deployments.privacy.fields import open_field, owner_of, seal_field
from deployments.privacy.open_tree import OpenTree
from deployments.privacy.sealed_keys import SealedSubjectKeys, open_branch, open_subject_keys, seal_subject_keys
from deployments.privacy.subject_keys import DEPTH, TOP, KeyBranch, SubjectKeys, TreeNode, key_below, leaves_gone, way_of
from deployments.scoring.port import Scored
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.erasing import erase
from tests.support import waiting
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.clock import Clock
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

    def show(self, name: str) -> SubjectKeysView:
        return SubjectKeysView.model_validate(self.brain.call(SHOW.name, name=name))

    def branches(self, asked: SubjectBranchesAsked) -> SubjectBranches:
        return SubjectBranches.model_validate(self.brain.call(BRANCHES.name, **asked.model_dump(mode="json")))

    def put(self, request: ReplaceSubjectKeys) -> object:
        return self.brain.call(REPLACE.name, **request.model_dump(mode="json"))

    def erase(self, *subjects: str, ring: KeyRing) -> list[str]:
        return list(erase(subjects, "subjects", ring, self.show, self.branches, self.put))


def pseudonym_in(book: SubjectBook, subject: str) -> str:
    return book.pseudonyms("subjects", [subject])[subject]


def key_in(book: SubjectBook, pseudonym: str, keys: str = "subjects") -> bytes | None:
    return book.keys_of(keys, [pseudonym])[pseudonym]


class Kept:
    """Keys and their sealed branches, as a store has them."""

    def __init__(self, keys: SubjectKeys) -> None:
        self.keys = keys
        self.sealed: dict[TreeNode, bytes] = {}
        self.asked = 0

    def tree(self) -> OpenTree:
        def fetch(nodes: Iterable[TreeNode]) -> dict[TreeNode, bytes]:
            self.asked += 1
            return {node: self.sealed[node] for node in nodes if node in self.sealed}

        return OpenTree("subjects", self.keys.root, fetch)

    def erase(self, *names: str) -> dict[TreeNode, bytes]:
        """Returns what was written for it."""
        tree = self.tree()
        tree.erase([way_of(name) for name in names])
        self.keys = replace(self.keys, root=tree.root)
        self.sealed |= tree.changed
        return tree.changed

    def keys_of(self, names: Sequence[str]) -> list[bytes | None]:
        nodes = self.tree().nodes_over([way_of(name) for name in names])
        return [key_below(*node, name) if (node := nodes[way_of(name)]) is not None else None for name in names]

    def all_branches(self) -> list[KeyBranch]:
        found = [self.keys.root]
        for branch in found:
            if branch.bottom < DEPTH:
                below = {(branch.bottom, end): opens for end, opens in branch.ends.items()}
                found += [open_branch(self.sealed[node], opens, "subjects", node) for node, opens in below.items()]
        return found

    @property
    def nodes(self) -> dict[TreeNode, bytes]:
        return {node: key for branch in self.all_branches() for node, key in branch.nodes.items()}


def test_a_key_that_is_destroyed_is_gone_and_the_others_stay() -> None:
    whole = SubjectKeys.new()
    names = [whole.pseudonym(f"subject {i}") for i in range(40)]
    kept = Kept(whole)
    keys = kept.keys_of(names)
    assert len(set(keys)) == 40
    assert {len(key or b"") for key in keys} == {32}
    for i, name in enumerate(names[:20]):
        kept.erase(name)
        assert kept.keys_of(names) == [None] * (i + 1) + keys[i + 1 :]
    left = kept.keys
    assert kept.erase(names[0]) == {}
    assert kept.keys == left
    assert kept.nodes.keys().isdisjoint(whole.root.nodes)  # the root is gone, and so is every node above one that was destroyed
    ways = [way_of(name) for name in names[:20]]
    assert not any(way >> (DEPTH - depth) == prefix for way, (depth, prefix) in itertools.product(ways, kept.nodes))
    assert SubjectKeys.from_bytes(left.to_bytes()) == left
    assert len(left.to_bytes()) + sum(map(len, kept.sealed.values())) < 20 * 2700
    assert SubjectKeys.new().pseudonym("subject 0") != names[0]


def test_many_are_erased_as_one_by_one() -> None:
    whole = SubjectKeys.new()
    names = [whole.pseudonym(f"subject {i}") for i in range(300)]
    one_by_one, at_once = Kept(whole), Kept(whole)
    for name in names[:100]:
        one_by_one.erase(name)
    at_once.erase(*names[:50])
    at_once.erase(*names[50:100])
    assert at_once.asked == 1  # of the first all is in the root
    assert one_by_one.nodes == at_once.nodes
    assert one_by_one.keys_of(names) == at_once.keys_of(names) == [None] * 100 + Kept(whole).keys_of(names[100:])
    # What an erasure writes does not grow with those before: it is bounded by four branches, each of 256 ends at most.
    written = at_once.erase(names[200])
    assert len(written) == 3
    assert sum(map(len, written.values())) < 6000
    assert max(len(branch.ends) for branch in at_once.all_branches()) <= 256


def test_a_call_for_more_branches_than_are_kept_finds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SubjectKeys.new()
    names = [f"{way:016x}{'0' * 16}" for way in (0, 1 << 62, 1 << 63, 1 << 50, (1 << 50) + 1)]
    kept = Kept(whole)
    keys = kept.keys_of(names)
    kept.erase(*names[:4])
    monkeypatch.setattr("deployments.privacy.open_tree.MOST_KEPT", 3)
    monkeypatch.setattr("deployments.privacy.open_tree.WAYS_AT_ONCE", 1)
    tree = kept.tree()
    assert tree.nodes_over([way_of(names[0])]) == {0: None}
    # The last two begin where branches are open, which have gone again when it is their turn.
    nodes = tree.nodes_over([way_of(name) for name in names[1:]])
    assert [nodes[way_of(name)] is None for name in names[1:]] == [True, True, True, False]
    node = nodes[way_of(names[4])]
    assert node is not None
    assert key_below(*node, names[4]) == keys[4]


def test_leaves_side_by_side_and_alike_are_erased() -> None:
    whole = SubjectKeys.new()
    rest = "0" * 16
    ways = [0, 1, 2, 2**64 - 1, 2**40, 2**40 + 1]
    names = [f"{way:016x}{rest}" for way in ways]
    kept = Kept(whole)
    keys = kept.keys_of(names)
    for i in (1, 0, 3, 4):
        kept.erase(names[i])
    assert kept.keys_of(names) == [None, None, keys[2], None, None, keys[5]]
    assert kept.keys_of([names[0][:16] + "f" * 16]) == [None]  # two of one leaf are both erased
    assert [SubjectKeys.from_bytes(kept.keys.to_bytes()).root] == [kept.keys.root]


def old_document(naming: bytes, root: bytes, gone: Sequence[int], ring: KeyRing) -> tuple[str, dict[TreeNode, bytes]]:
    """Keys as they were kept before the tree had branches, with the leaves erased; and all their nodes."""
    whole = KeyBranch(TOP, DEPTH, {TOP: root})
    for way in gone:
        whole, _ = whole.split((DEPTH, way))
    data = naming + b"".join(struct.pack(">BQ32s", *node, key) for node, key in sorted(whole.nodes.items()))
    data_key, about = bytes(range(32)), b"headrace subject keys\0subjects\0001"
    (holder,) = ring.holders
    sealed = bytes(12) + AESGCM(data_key).encrypt(bytes(12), data, about)
    document = SealedSubjectKeys(wrapped=holder.wrap(data_key, about), sealed=sealed)
    return orjson.dumps(document.model_dump(mode="json", exclude={"form"})).decode(), dict(whole.nodes)


def test_keys_of_before_there_were_branches_open_and_are_cut_into_them_as_one_is_erased(ring: KeyRing) -> None:
    naming, root = bytes(range(32)), bytes(range(1, 33))
    names = [SubjectKeys(naming, KeyBranch.untouched(TOP, root)).pseudonym(f"subject {i}") for i in range(30)]
    gone = [way_of(name) for name in names[:20]]
    gone.append(gone[0] ^ 1)  # both halves of a node
    document, nodes = old_document(naming, root, gone, ring)
    assert sorted(leaves_gone(nodes)) == sorted(gone)
    control = BrainControl()
    control.brain.call(REPLACE.name, name="subjects", number=1, document=document)

    def by_hand(name: str) -> bytes:
        key = root
        for turn in f"{int(name[:16], 16):064b}":
            key = hmac.digest(key, bytes([int(turn)]), "sha256")
        return hmac.digest(key, b"headrace field\0" + name.encode(), "sha256")

    before = [None] * 20 + [by_hand(name) for name in names[20:]]
    clock = Clock()
    book = SubjectBook(asking(control), clock)
    assert book.keys_of("subjects", names) == dict(zip(names, before, strict=True))
    assert control.erase("subject 20", "subject 0", ring=ring) == [names[20], names[0]]
    after = dict(zip(names, [None] * 21 + before[21:], strict=True))
    clock.now_s += FRESH_S
    assert book.keys_of("subjects", names) == after
    assert SubjectBook(asking(control)).keys_of("subjects", names) == after
    stored = control.brain.controller._current().subjects["subjects"]
    assert orjson.loads(stored.document)["form"] == 2
    assert 10 * len(stored.document) < len(document)
    with pytest.raises(ValueError, match="missing"):
        leaves_gone({node: key for node, key in nodes.items() if node != min(nodes)})


def test_branches_that_were_changed_or_lost_are_told(ring: KeyRing) -> None:
    control = BrainControl()
    SubjectBook(asking(control)).open("subjects", "prod")
    (ada,) = control.erase("ada", ring=ring)
    name = f"subjects/24/{way_of(ada) >> 40:x}"
    store = control.brain.controller._store
    state = control.brain.controller._current()
    (sealed,) = store.branches([name]).values()
    for wrong in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:40], b""):
        store.save(control.brain.controller._fence, state, state, (), branches={name: wrong})
        with pytest.raises(BadArtifact, match="subject keys subjects"):
            key_in(SubjectBook(asking(control)), ada)
    store.save(control.brain.controller._fence, state, state, (), branches={name: sealed})
    assert key_in(SubjectBook(asking(control)), ada) is None
    with pytest.raises(Conflict, match="replaced them meanwhile"):
        control.branches(SubjectBranchesAsked(name="subjects", number=1, branches=("8/0",)))


def test_who_reads_while_others_erase_looks_again(ring: KeyRing) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(asking(control), clock)
    book.open("subjects", "prod")
    ada, bob, eve = (pseudonym_in(book, who) for who in ("ada", "bob", "eve"))
    control.erase("ada", ring=ring)
    clock.now_s += FRESH_S
    assert key_in(book, bob) is not None  # so it has the root of number 2, and none of its branches
    control.erase("eve", ring=ring)
    assert key_in(book, ada) is None  # whose branches are of number 3 now
    assert key_in(book, eve) is None  # a newer root was read with them


def test_keys_that_stand_are_kept_over_an_erasure_and_destroyed_ones_are_not(ring: KeyRing) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(asking(control), clock)
    book.open("subjects", "prod")
    control.erase(*(f"other {i}" for i in range(50)), ring=ring)
    clock.now_s += FRESH_S
    names = list(book.pseudonyms("subjects", [f"subject {i}" for i in range(200)]).values())
    keys = book.keys_of("subjects", names)
    control.erase("subject 7", ring=ring)
    clock.now_s += FRESH_S
    control.calls = 0
    assert book.keys_of("subjects", names) == keys | {names[7]: None}
    assert control.calls <= 3  # whether there are others, and the branches on the way to what is not known
    remembered = [one.key for one in book._known["subjects"].of_subject.values()]
    assert keys[names[7]] not in remembered


def test_a_field_opens_where_it_belongs_only() -> None:
    keys = SubjectKeys.new()
    name, other = keys.pseudonym("ada"), keys.pseudonym("bob")
    key, others_key = (each or b"" for each in Kept(keys).keys_of([name, other]))
    sealed = partial(seal_field, b"[1,2]", key, keys="subjects", pseudonym=name, topic="out", field="p")
    text = sealed()
    assert text != sealed()
    assert owner_of(text) == ("subjects", name)
    assert open_field(text, key, topic="out", field="p") == b"[1,2]"
    moved = [
        (text, key, "in", "p"),
        (text, key, "out", "q"),
        (text, others_key, "out", "p"),
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
    books = [SubjectBook(asking(control), clock, actor="stream s") for _ in range(2)]
    for book in books:
        book.open("subjects", "prod")
    name = pseudonym_in(books[0], "ada")
    key = key_in(books[0], name)
    assert key is not None
    assert key_in(books[1], pseudonym_in(books[1], "ada")) == key
    document = control.brain.controller._current().subjects["subjects"].document
    assert key.hex() not in document
    assert control.erase("ada", ring=ring) == [name]
    assert key_in(books[0], name) == key  # for so long as it is fresh
    clock.now_s += FRESH_S
    assert key_in(books[0], name) is None
    assert key_in(books[0], pseudonym_in(books[0], "bob")) is not None
    audit = control.brain.controller._store.audit("")
    assert audit[0].actor == "stream s"
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
        key_in(books[0], name, "others")


def test_the_command_erases_whom_its_input_names(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    control = BrainControl()
    SubjectBook(asking(control)).open("subjects", "prod")
    ask_brain(control.brain, monkeypatch)
    monkeypatch.setattr(sys, "stdin", io.StringIO("ada\n"))
    assert main(["erase", "-", "--json"]) == ExitCode.OK
    pseudonym = orjson.loads(capsys.readouterr().out)["subject"]
    book = SubjectBook(asking(control))
    assert pseudonym == pseudonym_in(book, "ada")
    assert key_in(book, pseudonym) is None
    pair_in(tmp_path, "new")
    assert main(["erase", "eve", "--key", "new"]) == ExitCode.OK
    (tmp_path / "prod.key").unlink()  # what it ever sealed is lost, and the subjects that are left are not
    book = SubjectBook(asking(control))
    assert [key_in(book, pseudonym_in(book, who)) is None for who in ("ada", "eve", "bob")] == [
        True,
        True,
        False,
    ]
    assert main(["erase", "bob", "--keys", "others"]) == ExitCode.NOT_FOUND
    assert main(["erase", ""]) == ExitCode.BAD_INPUT


def test_the_command_erases_all_whom_it_is_given(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    control = BrainControl()
    book = SubjectBook(asking(control))
    book.open("subjects", "prod")
    ask_brain(control.brain, monkeypatch)
    lines = [f"subject {i}" for i in range(120)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n\n"))
    assert main(["erase", "ada", "-", "--json"]) == ExitCode.OK
    told = [orjson.loads(line)["subject"] for line in capsys.readouterr().out.splitlines()]
    assert told == [pseudonym_in(book, who) for who in ("ada", *lines)]
    assert set(SubjectBook(asking(control)).keys_of("subjects", told).values()) == {None}
    erased = [event for event in control.brain.store.audit("") if event.event == "subject erased"]
    assert [event.detail["subject"] for event in erased] == told
    assert {event.detail["number"] for event in erased} == {2, 3}  # a hundred at a time
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["erase", "-"]) == ExitCode.BAD_INPUT


def test_who_erases_at_the_same_time_loses_nothing(ring: KeyRing) -> None:
    control = BrainControl()
    SubjectBook(asking(control)).open("subjects", "prod")
    shown = threading.Event()

    def show(name: str) -> SubjectKeysView:
        view = control.show(name)
        if not shown.is_set():
            shown.set()
            control.erase("bob", ring=ring)
        return view

    assert list(erase(["ada"], "subjects", ring, show, control.branches, control.put))
    book = SubjectBook(asking(control))
    assert [key_in(book, pseudonym_in(book, each)) for each in ("ada", "bob")] == [None, None]


def test_while_the_controller_is_away_keys_last_for_a_while(ring: KeyRing) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(asking(control), clock)
    book.open("subjects", "prod")
    control.away = True
    clock.now_s += STALE_S - 1
    assert pseudonym_in(book, "ada")
    clock.now_s += 1
    with pytest.raises(Unreachable):
        pseudonym_in(book, "ada")


def test_a_controller_that_is_away_is_not_asked_for_every_record(ring: KeyRing) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(asking(control), clock)
    book.open("subjects", "prod")
    control.away, control.calls = True, 0
    clock.now_s += FRESH_S
    names = [pseudonym_in(book, f"subject {i}") for i in range(100)]
    assert control.calls == 1
    clock.now_s += AGAIN_S
    assert all(key_in(book, name) for name in names)
    assert control.calls == 2
    control.away = False
    clock.now_s += AGAIN_S
    control.erase("subject 1", ring=ring)
    assert key_in(book, names[1]) is None


def test_keys_that_are_known_are_not_sent_again(ring: KeyRing) -> None:
    control = BrainControl()
    SubjectBook(asking(control)).open("subjects", "prod")
    whole, same = (control.brain.call(SHOW.name, name="subjects", known=known) for known in (0, 1))
    assert (whole["number"], same["number"], same["document"]) == (1, 1, "")
    assert whole["document"]
    control.erase("ada", ring=ring)
    assert control.brain.call(SHOW.name, name="subjects", known=1)["document"]


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
    book = SubjectBook(asking(control), clock)
    spec = spec_of(output={"encrypt": {"fields": ["sum"], "key": "prod", "subject": subject}})
    named: Callable[[bytes], dict[str, Any]] = lambda whom: {"key": whom} if subject == "key" else {"key": b"1", "who": whom}  # noqa: E731
    with running(spec, book) as broker:
        out, dead = broker.topics["out"][0], broker.topics["dead"][0]
        put(broker, [1, 2, 3], **named(ADA))
        put(broker, [4, 5, 6], **named(BOB))
        put(broker, [7, 8, 9], key=None if subject == "key" else b"1")
        until(lambda: len(out) == 2 and len(dead) == 1)
        control.erase(ADA.decode(), ring=ring)
        clock.now_s += FRESH_S
        put(broker, [1, 1, 1], **named(ADA))
        put(broker, [2, 2, 2], **named(BOB))
        until(lambda: len(out) == 3 and len(dead) == 2)
    assert not any(name == "headrace.label_key" for record in out for name, _ in record.headers)
    texts = [orjson.loads(record.value or b"")["sum"] for record in out]
    assert "names no subject" in reason(dead[0])
    assert "its subject was erased" in reason(dead[1])
    reader = SubjectBook(asking(control))
    keys = [key_in(reader, (owner_of(text) or ("", ""))[1]) for text in texts]
    assert keys[0] is None
    assert [open_field(text, key or b"", topic="out", field="sum") for text, key in zip(texts[1:], keys[1:], strict=True)] == [
        b"[15.0]",
        b"[6.0]",
    ]


@pytest.mark.parametrize("erased", ["dead_letter", "null"])
def test_fields_that_come_encrypted_are_scored_and_stay_so_in_dead_letters(ring: KeyRing, erased: str) -> None:
    control, clock = BrainControl(), Clock()
    book = SubjectBook(asking(control), clock)
    book.open("subjects", "prod")

    def sealed(subject: bytes, value: bytes, topic: str = "in") -> str:
        name = pseudonym_in(book, subject.decode())
        return seal_field(value, key_in(book, name) or b"", keys="subjects", pseudonym=name, topic=topic, field="x")

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
        control.erase(ADA.decode(), ring=ring)
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
    with running(spec_of(output={"encrypt": {"fields": ["sum"], "key": "prod"}}), SubjectBook(asking(control))) as broker:
        put(broker, [1, 2, 3], key=who)
        until(lambda: len(broker.topics["out"][0]) == 1)
    owner = owner_of(orjson.loads(broker.topics["out"][0][0].value or b"")["sum"])
    (erased,) = control.erase(who.decode("utf-8", "surrogateescape"), ring=ring)
    assert owner == ("subjects", erased)
    assert not broker.topics["dead"][0]


def test_a_record_that_is_nested_too_deeply_is_a_dead_letter_and_costs_no_neighbour(ring: KeyRing) -> None:
    control = BrainControl()
    book = SubjectBook(asking(control))
    book.open("subjects", "prod")
    name = pseudonym_in(book, BOB.decode())
    his = seal_field(b"[4,5,6]", key_in(book, name) or b"", keys="subjects", pseudonym=name, topic="in", field="x")
    deep = b'{"x":"%s","more":%s1%s}' % (his.encode(), b"[" * 300, b"]" * 300)
    with running(spec_of(input={"decrypt": {"fields": ["x"]}}), book) as broker:
        out, dead = broker.topics["out"][0], broker.topics["dead"][0]
        put(broker, his)
        broker.append("in", 0, Stored(BOB, deep, (), 1000))
        put(broker, his)
        until(lambda: len(out) == 2 and len(dead) == 1)
    assert "nested too deeply" in reason(dead[0])


def test_a_field_that_is_no_output_is_told() -> None:
    spec = spec_of(output={"encrypt": {"fields": ["sum", "summ"], "key": "prod"}})
    with pytest.raises(BadInput, match=r"no output \['summ'\]"):
        Codecs(spec).of(SumScoring().signature("m"))


def test_a_stream_whose_keys_cannot_be_had_waits(ring: KeyRing) -> None:
    control = BrainControl()
    control.away = True
    spec = spec_of(output={"encrypt": {"fields": ["sum"], "key": "prod"}})
    with running(spec, SubjectBook(asking(control))) as broker:
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
