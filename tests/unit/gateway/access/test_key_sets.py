"""Issuers' keys, from a real HTTP server on loopback and from files."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from cluster.access.issuers import Issuer, SigningAlgorithm
from cluster.errors import Unreachable
from deployments.gateway.access import key_fetching
from deployments.gateway.access.bad_credential import BadCredential
from deployments.gateway.access.key_fetching import FILE_LOOK_S, MOST_BYTES, fetch_keys
from deployments.gateway.access.key_sets import KeySets
from deployments.gateway.access.tokens import verify_token
from tests.support.token_issuer import CLAIMS, NOW_S, KeyServer, jwk, jwks, key_server, signed, tls_files

pytestmark = pytest.mark.anyio
OLD, NEW = jwks(jwk("ES256", "old")), jwks(jwk("ES256", "old"), jwk("EdDSA", "new"))
ROOM = "deployments.gateway.access.key_sets"


class FakeTime:
    """Goes on by `passes` alone, which returns when all that waited for it wait again."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._waiting: list[asyncio.Event] = []
        self._waits = 0
        self._again = asyncio.Condition()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        assert timeout_s > 0
        async with self._again:
            self._waiting.append(event)
            self._waits += 1
            self._again.notify_all()
        await event.wait()
        self._waiting.remove(event)

    async def passes(self, s: float) -> None:
        self.now_s += s
        await self.woken(lambda: [event.set() for event in self._waiting], len(self._waiting))

    async def woken(self, act: Callable[[], object], by: int = 1) -> None:
        """Of those that wait, `by` do something because of `act`: returns when they wait again."""
        until = self._waits + by
        act()
        async with asyncio.timeout(20), self._again:
            await self._again.wait_for(lambda: self._waits >= until)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as started:
        started.bodies["/keys"] = OLD
        yield started


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def sets(time: FakeTime) -> AsyncIterator[KeySets]:
    made = KeySets(lambda: time.now_s, time.wait)
    yield made
    await made.close()


def issuer(keys: str, name: str = "corp", **more: object) -> Issuer:
    said = {"name": name, "issuer": CLAIMS["iss"], "audience": "headrace", "keys": keys, "algorithms": ["ES256", "EdDSA"]}
    return Issuer.model_validate({**said, **more})


async def begun(sets: KeySets, time: FakeTime, *issuers: Issuer) -> None:
    sets.follow(issuers)
    await time.woken(sets.start, len(issuers))
    await sets.first(0)


def kids(sets: KeySets, name: str = "corp") -> set[str | None]:
    return set(sets.keys_of(name))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == ROOM and each.levelno >= logging.WARNING]


async def test_a_token_is_verified_by_the_keys_that_are_published(sets: KeySets, time: FakeTime, server: KeyServer) -> None:
    await begun(sets, time, issuer(f"{server.url}/keys"))
    assert verify_token(signed({"alg": "ES256", "kid": "old"}, CLAIMS), sets, NOW_S).subject == "ann"
    assert sets.keys_of("other") == {}
    assert sets.issuer_of("https://other.example") is None


async def test_the_last_good_keys_stay_while_the_issuer_is_away_or_talks_rubbish(
    sets: KeySets, time: FakeTime, server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, ROOM)
    await begun(sets, time, issuer(f"{server.url}/keys"))

    def rubbish() -> Iterator[None]:
        server.away = True
        yield
        server.away = False
        for status in (500, 404, 204):
            server.status = status
            yield
        server.status = 200
        packed = {"content-encoding": "gzip"}
        for body, headers in ((b"<html>", {}), (b'{"keys": []}', {}), (b" " * (MOST_BYTES + 1), {}), (OLD, packed)):
            server.bodies["/keys"], server.headers = body, headers
            yield
        server.bodies["/keys"], server.headers = b"half", {"content-length": "1000"}  # and hangs up
        yield
        server.status, server.headers = 302, {"location": f"{server.url}/elsewhere"}
        yield

    waits_s = []
    server.bodies["/elsewhere"] = NEW
    await time.passes(599)
    for _ in rubbish():
        asked = len(server.asked)
        while len(server.asked) == asked:
            await time.passes(1)
            waits_s.append(1)
        assert kids(sets) == {"old"}
    # After 1, 1, 2, 4, .. s, and never less than each minute.
    assert len(waits_s) == 1 + 1 + 2 + 4 + 8 + 16 + 32 + 60 * 3
    server.bodies["/keys"], server.status, server.headers = NEW, 200, {}
    await time.passes(60)
    assert kids(sets) == {"old", "new"}
    assert "/elsewhere" not in server.asked
    [told] = warnings(caplog)
    assert "issuer corp: no keys, the last ones go on counting" in told
    server.away = True
    await time.passes(600)
    assert len(warnings(caplog)) == 2
    server.away = False
    for _ in range(2):
        await time.passes(600)
    assert sum("come again" in each.getMessage() for each in caplog.records) == 2


@pytest.mark.parametrize(
    ("body", "status", "headers", "why"),
    [
        (OLD, 500, {}, "it answers 500"),
        (OLD, 302, {"location": "/keys"}, "no redirect is followed"),
        (OLD, 200, {"content-encoding": "gzip"}, "packed"),
        (OLD, 200, {"content-length": "1000000"}, "RemoteProtocolError"),
        (b" " * (MOST_BYTES + 1), 200, {}, "over 1 MiB"),
    ],
)
async def test_what_is_no_answer_is_refused_and_told(
    server: KeyServer, body: bytes, status: int, headers: dict[str, str], why: str
) -> None:
    server.bodies["/keys"], server.status, server.headers = body, status, headers
    with pytest.raises(Unreachable, match=why) as caught:
        await fetch_keys(issuer(f"{server.url}/keys"))
    assert caught.value.where == f"{server.url}/keys"
    assert server.asked == ["/keys"]


async def test_an_answer_that_drips_is_not_waited_for(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_fetching, "FETCH_WITHIN_S", 0.05)
    server.goes_on.clear()
    with pytest.raises(Unreachable, match="no whole answer within"):
        await fetch_keys(issuer(f"{server.url}/keys"))


async def test_a_certificate_that_this_node_does_not_trust_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tls_files(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with key_server(tls) as server:
        server.bodies["/keys"] = OLD
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch_keys(issuer(f"{server.url}/keys"))
        assert server.asked == []
        # As operators with an authority of their own do it.
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        key_fetching._trusted.cache_clear()
        assert (await fetch_keys(issuer(f"{server.url}/keys"))).data == OLD
    key_fetching._trusted.cache_clear()


async def test_a_proxy_is_asked_for_others_than_this_machine(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, server.url)
    assert (await fetch_keys(issuer(f"{server.url}/keys"))).data == OLD
    with pytest.raises(Unreachable, match="ProxyError"):
        await fetch_keys(issuer("https://id.example/keys"))
    monkeypatch.setenv("HTTPS_PROXY", "odd://ann:secret@proxy.example")
    with pytest.raises(Unreachable, match="a proxy that can't be used") as caught:
        await fetch_keys(issuer("https://id.example/keys"))
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_none_or_too_large_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * (MOST_BYTES + 1))
    for name, why in (("pipe", "is no file"), ("large", "over 1 MiB"), ("absent", "can't be read")):
        with pytest.raises(Unreachable, match=why):
            await fetch_keys(issuer(str(tmp_path / name)))


async def test_who_was_never_there_is_asked_until_he_is(
    sets: KeySets, time: FakeTime, server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.away = True
    await begun(sets, time, issuer(f"{server.url}/keys"))
    with pytest.raises(BadCredential) as caught:
        verify_token(signed({"alg": "ES256", "kid": "old"}, CLAIMS), sets, NOW_S)
    assert caught.value.reason == "no_keys"
    assert "tokens are refused until they come" in warnings(caplog)[0]
    server.away = False
    await time.passes(1)
    assert verify_token(signed({"alg": "ES256", "kid": "old"}, CLAIMS), sets, NOW_S).subject == "ann"


async def test_a_server_that_has_ended_costs_no_keys(sets: KeySets, time: FakeTime) -> None:
    with key_server() as server:
        server.bodies["/keys"] = OLD
        await begun(sets, time, issuer(f"{server.url}/keys"))
    await time.passes(600)
    assert kids(sets) == {"old"}


@pytest.mark.parametrize(
    ("told", "again_s"),
    [("", 600), ("max-age=5", 60), ("public, max-age=300, must-revalidate", 300), ("max-age=99999", 3600), ("s-maxage=90", 600)],
)
async def test_keys_are_asked_for_again_as_often_as_the_issuer_says(
    sets: KeySets, time: FakeTime, server: KeyServer, told: str, again_s: int
) -> None:
    server.headers = {"cache-control": told}
    await begun(sets, time, issuer(f"{server.url}/keys"))
    server.bodies["/keys"] = NEW
    await time.passes(again_s - 1)
    assert kids(sets) == {"old"}
    await time.passes(1)
    assert kids(sets) == {"old", "new"}
    assert len(server.asked) == 2


async def test_an_unknown_key_is_asked_for_once_in_30_seconds(sets: KeySets, time: FakeTime, server: KeyServer) -> None:
    def refused() -> None:
        with pytest.raises(BadCredential) as caught:
            verify_token(token, sets, NOW_S)
        assert caught.value.reason == "unknown_key"

    await begun(sets, time, issuer(f"{server.url}/keys"))
    token = signed({"alg": "EdDSA", "kid": "new"}, CLAIMS, "EdDSA")
    await time.passes(100)
    await time.woken(refused)
    assert len(server.asked) == 2
    server.bodies["/keys"] = NEW  # a moment later
    await time.woken(refused)
    for _ in range(10):
        refused()
    await time.passes(29)
    assert len(server.asked) == 2
    await time.passes(1)
    assert len(server.asked) == 3
    assert verify_token(token, sets, NOW_S).subject == "ann"


async def test_an_unknown_key_never_delays_what_is_due_sooner(sets: KeySets, time: FakeTime, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(OLD)
    await begun(sets, time, issuer(str(file)))
    file.write_bytes(NEW)
    sets.key_unknown("corp")
    sets.key_unknown("other")
    await time.passes(FILE_LOOK_S)
    assert kids(sets) == {"old", "new"}


async def test_discovery_finds_the_keys(sets: KeySets, time: FakeTime, server: KeyServer) -> None:
    where = f"{server.url}/realms/a"
    document = {"issuer": where, "jwks_uri": f"{server.url}/keys"}
    path = "/realms/a/.well-known/openid-configuration"
    server.bodies[path] = json.dumps(document).encode()
    await begun(sets, time, issuer("", discover=True, issuer=where))
    assert server.asked == [path, "/keys"]
    assert kids(sets) == {"old"}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"issuer": "https://evil.example", "jwks_uri": "SERVER/keys"}, "another issuer"),
        ({"issuer": "SERVER/", "jwks_uri": "SERVER/keys"}, "another issuer"),
        ({"jwks_uri": "SERVER/keys"}, "another issuer"),
        ({"issuer": "SERVER"}, "no `jwks_uri`"),
        ({"issuer": "SERVER", "jwks_uri": "http://id.example/keys"}, "plain http"),
        ({"issuer": "SERVER", "jwks_uri": "file:///etc/passwd"}, "https://"),
        ([], "no discovery document"),
    ],
)
async def test_discovery_that_does_not_fit_is_not_followed(
    sets: KeySets, time: FakeTime, server: KeyServer, caplog: pytest.LogCaptureFixture, document: object, why: str
) -> None:
    server.bodies["/.well-known/openid-configuration"] = json.dumps(document).replace("SERVER", server.url).encode()
    await begun(sets, time, issuer("", discover=True, issuer=server.url))
    assert kids(sets) == set()
    assert len(server.asked) == 1
    assert why in warnings(caplog)[0]


async def test_a_file_is_read_again_when_it_changes(
    sets: KeySets, time: FakeTime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    await begun(sets, time, issuer(str(file)))
    assert kids(sets) == set()
    assert f"{file}: can't be read" in warnings(caplog)[0]
    for body, found in ((OLD, {"old"}), (NEW, {"old", "new"}), (NEW[:-9], {"old", "new"}), (OLD, {"old"})):
        file.write_bytes(body)
        await time.passes(FILE_LOOK_S)
        assert kids(sets) == found
    file.unlink()
    await time.passes(FILE_LOOK_S)
    assert kids(sets) == {"old"}


async def test_keys_that_can_not_be_used_are_told_of_once(
    sets: KeySets, time: FakeTime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks({"kty": "oct", "k": "AAAA", "kid": "s"}, jwk("ES256", "old")))
    await begun(sets, time, issuer(str(file)))
    for _ in range(3):
        await time.passes(FILE_LOOK_S)
    assert kids(sets) == {"old"}
    [told] = warnings(caplog)
    assert "'s': a shared secret" in told


async def test_a_document_that_changes_changes_what_it_says_alone(sets: KeySets, time: FakeTime, server: KeyServer) -> None:
    server.bodies["/lab"] = NEW
    corp = issuer(f"{server.url}/keys")
    lab = issuer(f"{server.url}/lab", "lab", issuer="https://lab.example")
    await begun(sets, time, corp, lab)
    assert sorted(server.asked) == ["/keys", "/lab"]
    other = corp.model_copy(update={"algorithms": (SigningAlgorithm.RS256,), "leeway_s": 0.0})
    sets.follow([corp, lab])
    sets.follow([lab, other])
    assert sets.issuer_of(corp.issuer) == other
    assert (kids(sets), kids(sets, "lab")) == ({"old"}, {"old", "new"})
    # Keys from another place are none of the former's.
    moved = corp.model_copy(update={"keys": f"{server.url}/lab"})
    await time.woken(lambda: sets.follow([moved]))
    assert (kids(sets), kids(sets, "lab")) == ({"old", "new"}, set())
    assert sets.issuer_of(lab.issuer) is None
    assert sorted(server.asked) == ["/keys", "/lab", "/lab"]


async def test_a_mistake_of_ours_does_not_end_it(
    sets: KeySets, time: FakeTime, server: KeyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(sets, time, issuer(f"{server.url}/keys"))
    with monkeypatch.context() as broken:
        broken.setattr(key_fetching, "_again_s", lambda _: 1 / 0)
        await time.passes(600)
    assert "ZeroDivisionError" in warnings(caplog)[0]
    server.bodies["/keys"] = NEW
    await time.passes(1)
    assert kids(sets) == {"old", "new"}


async def test_by_real_time_it_begins_and_ends(server: KeyServer) -> None:
    sets = KeySets()
    sets.follow([issuer(f"{server.url}/keys")])
    await sets.first(0)
    assert kids(sets) == set()
    sets.start()
    await sets.first(20)
    assert kids(sets) == {"old"}
    await sets.close()
    assert not [task for task in asyncio.all_tasks() if "issuer" in task.get_name()]
    assert kids(sets) == {"old"}
