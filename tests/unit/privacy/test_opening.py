"""What programs open of what Headrace has encrypted: all that can be, with the reason beside where it can't."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.access.callers import CLUSTER, STRANGER, VISITOR, Caller, Role, grant_of
from cluster.commands.privacy.subjects import BRANCHES, SHOW
from cluster.errors import Conflict, Forbidden, HeadraceError, NotFound, Unauthenticated, Unreachable
from cluster.store.sql import SqlStore
from consumers.stream.sealed.book import FRESH_S, SubjectBook
from deployments.keys.ring import VARIABLE, KeyRing
from deployments.privacy import parquet
from deployments.privacy.fields import seal_field
from deployments.privacy.parquet import encryption_of
from headrace.client import ControlClient
from headrace.erasing import erase
from headrace.opening import FieldOpener, FieldState, FileState, OpenedField, open_files
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain, brain_client
from tests.support.clock import Clock
from tests.support.key_services import TOKEN, small_vault
from tests.unit.keys.test_keys import pair_in

pytestmark = pytest.mark.usefixtures("keys")

DOCUMENT = Path(__file__).parents[3] / "docs" / "privacy.md"
TOPIC, NAME, MARK = "churn-scores", "probability", "Ada-Marked-of-Kent"


class Service:
    """A controller over a store on the disk. `asked` are the commands that it was sent; while `away` it does not answer."""

    def __init__(self, store: SqlStore) -> None:
        self.brain = Brain(store)
        self.asked: list[str] = []
        self.away = False
        self.clock = Clock()
        self._book = SubjectBook(self.client().call)

    def client(self, caller: Caller = CLUSTER) -> ControlClient:
        return brain_client(self.brain, caller, asked=self._take)

    def _take(self, command: str) -> None:
        self.asked.append(command)
        if self.away:
            raise httpx.ConnectError("refused")

    def opener(self, *keys: str) -> FieldOpener:
        self.asked.clear()
        return FieldOpener(self.client(), keys=keys or ("subjects",), clock=self.clock)

    def sealed(self, subject: str, value: bytes, *, keys: str = "subjects", key: str = "prod", topic: str = TOPIC) -> str:
        """As a stream writes the field of that subject's record."""
        self._book.open(keys, key)
        pseudonym = self._book.pseudonyms(keys, [subject])[subject]
        own = self._book.keys_of(keys, [pseudonym])[pseudonym]
        assert own is not None
        return seal_field(value, own, keys=keys, pseudonym=pseudonym, topic=topic, field=NAME)

    def erase(self, *subjects: str) -> None:
        client = self.client()
        asks = client.subject_keys, client.subject_branches, client.replace_subject_keys
        assert len(list(erase(subjects, "subjects", KeyRing.from_environment(), *asks))) == len(subjects)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    yield Service(store)
    store.close()


def states(found: list[OpenedField]) -> list[FieldState]:
    return [one.state for one in found]


def test_many_are_opened_at_once_and_each_that_is_not_says_why(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    texts = [service.sealed(f"subject {i}", orjson.dumps([i, MARK])) for i in range(400)]
    service.erase("subject 1", *(f"subject {i}" for i in range(10, 60)))
    wrong: dict[str, tuple[object, FieldState]] = {
        "in clear": (0.5, FieldState.IN_CLEAR),
        "nothing": (None, FieldState.IN_CLEAR),
        "of a later form": ("enc:2:subjects/x:AAAA", FieldState.IN_CLEAR),
        "changed": (texts[2][:-9], FieldState.CHANGED),
        "another's": (texts[2].rpartition(":")[0] + ":" + texts[3].rpartition(":")[2], FieldState.CHANGED),
        "of another topic": (service.sealed("subject 2", b"1", topic="elsewhere"), FieldState.CHANGED),
        "of keys that nobody has": (texts[2].replace("subjects/", "of-nobody/"), FieldState.UNKNOWN_KEYS),
        "no json": (service.sealed("subject 2", MARK.encode()), FieldState.NO_JSON),
    }
    with service.opener() as opener:
        found = opener.open([*texts, *(value for value, _ in wrong.values()), texts[0]], topic=TOPIC, name=NAME)
        # The root of the tree once, and the branches on all the ways: no call for each.
        assert service.asked[0] == SHOW.name
        assert set(service.asked[1:]) == {BRANCHES.name}
        assert len(service.asked) <= 3
        again = [opener.open([text], topic=TOPIC, name=NAME)[0] for text in texts]
        assert len(service.asked) <= 3
    gone = {1, *range(10, 60)}
    assert states(found[:400]) == [FieldState.ERASED if i in gone else FieldState.OPENED for i in range(400)]
    assert [one.value for i, one in enumerate(found[:400]) if i not in gone] == [[i, MARK] for i in range(400) if i not in gone]
    assert states(found[400:]) == [*(state for _, state in wrong.values()), FieldState.OPENED]
    assert states(again) == states(found[:400])
    for one in found:
        assert (one.error is None) is (one.state is FieldState.OPENED)
        assert MARK not in f"{one!r}{one.error}"
        if one.error is not None:
            assert one.error.where == NAME
            assert one.error.remedy
            with pytest.raises(type(one.error)):
                assert one.value
    assert MARK not in caplog.text
    # Another field of the same record is not that one.
    assert states(service.opener().open(texts[:1], topic=TOPIC, name="label")) == [FieldState.CHANGED]


def test_an_erased_subject_is_known_within_the_time_that_is_promised(service: Service) -> None:
    hers, his = (service.sealed(who, b"0.5") for who in ("ada", "bob"))
    opener = service.opener()
    assert states(opener.open([hers, his], topic=TOPIC, name=NAME)) == [FieldState.OPENED] * 2
    service.erase("ada")
    service.clock.now_s += FRESH_S
    assert states(opener.open([hers, his], topic=TOPIC, name=NAME)) == [FieldState.ERASED, FieldState.OPENED]


def test_keys_that_nothing_here_opens_cost_no_neighbour_and_no_call_a_record(service: Service, keys: Path) -> None:
    pair_in(keys, "hr")
    locked, open_ = service.sealed("ada", b"1", keys="payroll", key="hr"), service.sealed("ada", b"2")
    away = (keys / "hr.key").rename(keys.parent / "hr.key")
    opener = service.opener("subjects", "payroll")
    found = opener.open([locked, open_, locked], topic=TOPIC, name=NAME)
    assert states(found) == [FieldState.LOCKED, FieldState.OPENED, FieldState.LOCKED]
    assert isinstance(found[0].error, Forbidden)
    assert "no key of this machine opens it" in found[0].error.what
    assert VARIABLE in found[0].error.remedy
    asked = len(service.asked)
    for _ in range(50):
        assert states(opener.open([locked], topic=TOPIC, name=NAME)) == [FieldState.LOCKED]
    assert len(service.asked) == asked
    # A key of the same name is not that one; put right, it opens once it is asked for again.
    pair_in(keys, "hr")
    service.clock.now_s += FRESH_S
    assert states(opener.open([locked], topic=TOPIC, name=NAME)) == [FieldState.LOCKED]
    away.rename(keys / "hr.key")
    service.clock.now_s += FRESH_S
    assert opener.open([locked], topic=TOPIC, name=NAME)[0].value == 1


def test_nobody_is_asked_for_keys_that_the_program_has_not_named(service: Service) -> None:
    other = service.sealed("ada", b"1", keys="payroll")
    names = [other.replace("payroll/", f"name-{i}/") for i in range(20)]
    opener = service.opener()
    assert states(opener.open([other, *names], topic=TOPIC, name=NAME)) == [FieldState.UNKNOWN_KEYS] * 21
    assert service.asked == []
    assert states(service.opener("payroll").open([other], topic=TOPIC, name=NAME)) == [FieldState.OPENED]


@pytest.mark.parametrize(
    ("caller", "refused"),
    [
        (STRANGER, Unauthenticated),
        (VISITOR, Unauthenticated),
        (Caller("key team", (grant_of([role for role in Role if role is not Role.ADMIN]),)), Forbidden),
    ],
    ids=["stranger", "visitor", "no admin"],
)
def test_who_may_not_erase_opens_nothing(service: Service, caller: Caller, refused: type[HeadraceError]) -> None:
    text = service.sealed("ada", b"1")
    opener = FieldOpener(service.client(caller))
    with pytest.raises(refused, match="for admins"):
        opener.open([text], topic=TOPIC, name=NAME)


def test_what_no_value_can_help_is_raised_and_mends_itself(service: Service, keys: Path) -> None:
    text = service.sealed("ada", b"1")
    opener = service.opener()
    service.away = True
    with pytest.raises(Unreachable):
        opener.open([text], topic=TOPIC, name=NAME)
    service.away = False
    (keys / "prod.key").chmod(0o644)
    with pytest.raises(Conflict, match="others than this user may read"):
        opener.open([text], topic=TOPIC, name=NAME)
    (keys / "prod.key").chmod(0o600)
    assert opener.open([text], topic=TOPIC, name=NAME)[0].value == 1
    service.away = True
    service.clock.now_s += FRESH_S
    assert opener.open([text], topic=TOPIC, name=NAME)[0].value == 1  # as stream workers do, for ten minutes


def test_a_service_that_has_the_key_is_asked_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_vault().serving() as vault:
        monkeypatch.setenv("VAULT_ADDR", vault.url)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        monkeypatch.setenv(VARIABLE, "vault:transit/prod")
        texts = [service.sealed(f"subject {i}", b"1", key="vault:transit/prod") for i in range(30)]
        opener = service.opener()
        vault.away = True
        with pytest.raises(Unreachable, match="Vault does not answer"):
            opener.open(texts, topic=TOPIC, name=NAME)
        vault.away = False
        assert {one.value for one in opener.open(texts[:20], topic=TOPIC, name=NAME)} == {1}
        vault.away = True  # so nothing of what follows asks it
        service.clock.now_s += FRESH_S
        assert {opener.open([text], topic=TOPIC, name=NAME)[0].value for text in texts} == {1}


def test_a_notebook_and_threads_may_use_it(service: Service) -> None:
    texts = [service.sealed(f"subject {i}", orjson.dumps(i)) for i in range(120)]
    opener, together = service.opener(), threading.Barrier(4)

    def some(first: int) -> list[int]:
        together.wait(20)
        return [one.value for one in opener.open(texts[first::4], topic=TOPIC, name=NAME)]

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(some, range(4))] == [[*range(first, 120, 4)] for first in range(4)]

    async def cell() -> Any:  # a notebook's cells run in an event loop
        return service.opener().open(texts[:1], topic=TOPIC, name=NAME)[0].value

    assert asyncio.run(cell()) == 0


def encrypted(file: Path, key: str = "prod") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"who": [MARK], "y": [0.5]}), file, encryption_properties=encryption_of(key))
    return file


def test_files_open_beside_those_that_do_not(tmp_path: Path, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "scores"
    pair_in(keys, "hr")
    encrypted(folder / "a.parquet")
    encrypted(folder / "b.parquet", "hr")
    content = encrypted(folder / "c.parquet").read_bytes()
    (folder / "c.parquet").write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    (folder / "d.parquet").write_bytes(content[: len(content) // 2])
    (folder / "e.parquet").write_bytes(b"no parquet")
    pq.write_table(pa.table({"y": [1.5]}), folder / "region=eu.parquet")
    encrypted(folder / ".scores.headrace/runs/r1/data/part.parquet")  # what is not published is nobody's yet
    (keys / "hr.key").rename(tmp_path / "hr.key")
    parquet._factory.cache_clear()
    found = list(open_files(str(folder)))
    assert [Path(one.path).name[0] for one in found] == [*"abcder"]
    damaged = FileState.DAMAGED
    assert [one.state for one in found] == [
        FileState.OPENED,
        FileState.LOCKED,
        damaged,
        damaged,
        damaged,
        FileState.OPENED,
    ]
    assert [one.table["y"].to_pylist() for one in (found[0], found[-1])] == [[0.5], [1.5]]
    for one in found[1:-1]:
        assert one.error is not None
        assert one.error.where == one.path
        with pytest.raises(type(one.error)):
            assert one.table
    assert VARIABLE in str(found[1].error)
    assert MARK not in "".join(f"{one!r}{one.error}" for one in found) + caplog.text
    with pytest.raises(NotFound, match="no Parquet file"):
        open_files(str(tmp_path / "nowhere"))


def test_the_page_shows_it_as_it_is(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    fields, files = (block for block in blocks if "headrace.opening" in block)
    hers, his = (service.sealed(who, b"0.5") for who in ("ada", "bob"))
    service.erase("ada")
    ask_brain(service.brain, monkeypatch)
    records = [
        SimpleNamespace(key=who, value=orjson.dumps({NAME: text})) for who, text in ((b"ada", hers), (b"bob", his), (b"eve", "?"))
    ]
    seen: dict[str, Any] = {"records": records}
    exec(fields, seen)  # noqa: S102 - the page's own words
    assert seen["scores"] == {b"bob": 0.5}
    assert seen["refused"] == {b"ada": "erased", b"eve": "in_clear"}
    monkeypatch.chdir(tmp_path)
    encrypted(tmp_path / "scores" / "a.parquet")
    (tmp_path / "scores" / "b.parquet").write_bytes(b"no parquet")
    exec(files, seen)  # noqa: S102
    assert seen["scored"]["y"].to_pylist() == [0.5]
    assert [Path(path).name for path in seen["left_out"]] == ["b.parquet"]
