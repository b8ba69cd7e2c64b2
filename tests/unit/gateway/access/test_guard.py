"""Who calls, from what he brings."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from trustme import CA

from cluster.access.callers import Role, grant_of
from cluster.access.keys import StoredKey, new_key
from cluster.access.policy import Access, AccessPolicy
from cluster.errors import HeadraceError, OverQuota, Unauthenticated, Unreachable
from cluster.routing.routes import EMPTY, RouteTable
from deployments.gateway.access.credential import NOTHING, Credential, cut, in_headers, secret_of
from deployments.gateway.access.guard import KNOWN_S, WRONG_AT_ONCE, Guard
from tests.support.access import MadeKey, closed, made_key
from tests.support.clock import Clock
from tests.support.gateway_fakes import FakeScorer, table

SCORES = grant_of([Role.SCORE], "pair")


def guarding(*keys: MadeKey, visitors: bool = False, routes: RouteTable | None = None) -> tuple[Guard, FakeScorer, Clock]:
    scorer, clock = FakeScorer(routes or closed(table(), *keys)), Clock()
    return Guard(scorer, visitors=visitors, clock=clock), scorer, clock


def bearer(text: str) -> Credential:
    return Credential(f"Bearer {text}".encode())


def basic(user: str, password: str) -> Credential:
    return Credential(b"Basic " + base64.b64encode(f"{user}:{password}".encode()))


def test_a_key_is_known_in_each_of_its_forms() -> None:
    key = made_key("team", SCORES)
    guard, _, _ = guarding(key)
    name, rest = key.text.removeprefix("hr_").split("_")
    for credential in (bearer(key.text), Credential(f"bearer  {key.text} ".encode()), basic("any", key.text), basic(name, rest)):
        assert guard.admitted(credential).name == "key team"


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer",
        b"Bearer ",
        b"Bearer hr_",
        b"Bearer x",
        b"Bearer a.b.c",
        b"Basic !!!",
        b"Basic " + base64.b64encode(b"no colon"),
        b"Basic " + base64.b64encode(b"\xff\xfe:x"),
        b"Bearer \xff\xfe",
        b"Bearer " + b"A" * 40_000,
        b"Digest username=x",
        b"\0",
        pytest.param(b"Bearer " + new_key().text.encode(), id="nobody's"),  # workers of xdist must name it alike
    ],
    ids=range(13),  # the key is drawn: its text in a name would differ from worker to worker
)
def test_what_is_no_good_is_refused_in_the_same_words_and_counted(value: bytes) -> None:
    guard, _, _ = guarding(made_key("team", SCORES))
    with pytest.raises(Unauthenticated) as caught:
        guard.admitted(Credential(value))
    with pytest.raises(Unauthenticated) as nothing:
        guard.admitted(NOTHING)
    assert str(caught.value) == str(nothing.value)
    assert sum(guard.refused.values()) == 2


def test_a_wrong_secret_with_a_right_checksum_is_no_key() -> None:
    key, forged = made_key("team", SCORES), new_key()
    routes = closed(table(), key)
    keys = {forged.id: replace(key.stored, id=forged.id)}
    guard, _, _ = guarding(routes=replace(routes, access=AccessPolicy(Access(), keys)))
    with pytest.raises(Unauthenticated):
        guard.admitted(bearer(forged.text))


def test_who_brings_nothing_is_let_in_as_settings_and_document_say() -> None:
    assert guarding(visitors=True, routes=table())[0].admitted(NOTHING).may(Role.SCORE, "pair")
    with pytest.raises(Unauthenticated):
        guarding(visitors=False, routes=table())[0].admitted(NOTHING)
    with pytest.raises(Unauthenticated):
        guarding(visitors=True)[0].admitted(NOTHING)  # a document is there, and grants nothing
    anyone = Access.model_validate({"grants": [{"to": {"anyone": True}, "roles": ["score"], "models": ["pair"]}]})
    caller = guarding(routes=closed(table(), document=anyone))[0].admitted(NOTHING)
    assert (caller.may(Role.SCORE, "pair"), caller.may(Role.VIEW, "pair")) == (True, False)


def test_a_bad_key_is_refused_where_none_is_needed() -> None:
    guard, _, _ = guarding(visitors=True, routes=table())
    with pytest.raises(Unauthenticated):
        guard.admitted(bearer(new_key().text))


def test_a_key_ends_with_its_time_and_with_the_next_table() -> None:
    key = made_key("team", SCORES, expires_s=1030.0)
    guard, scorer, clock = guarding(key)
    guard.admitted(bearer(key.text))
    clock.now_s = 1030.0
    with pytest.raises(Unauthenticated):
        guard.admitted(bearer(key.text))
    lasting = made_key("team", SCORES)
    scorer.table = closed(table(), lasting)
    guard.admitted(bearer(lasting.text))
    scorer.table = closed(table())
    with pytest.raises(Unauthenticated):
        guard.admitted(bearer(lasting.text))


def test_before_the_first_table_a_key_is_neither_good_nor_bad() -> None:
    guard, _, _ = guarding(routes=EMPTY, visitors=True)
    for credential in (bearer(made_key("team", SCORES).text), NOTHING):  # a document may be there that lets nobody in
        with pytest.raises(Unreachable, match="not known yet"):
            guard.admitted(credential)


def test_wrong_keys_from_one_address_are_slowed_and_nobody_else_is() -> None:
    key, late = made_key("team", SCORES), made_key("late", SCORES)
    guard, _, clock = guarding(key, late)
    guard.admitted(bearer(key.text), b"192.0.2.1")

    def told(address: bytes, text: str) -> type[HeadraceError] | None:
        try:
            guard.admitted(bearer(text), address)
        except HeadraceError as error:
            return type(error)
        return None

    tries = [told(b"192.0.2.1", new_key().text) for _ in range(round(WRONG_AT_ONCE) + 5)]
    assert tries == [Unauthenticated] * round(WRONG_AT_ONCE) + [OverQuota] * 5
    assert told(b"192.0.2.1", key.text) is None  # known already
    assert told(b"192.0.2.1", late.text) is OverQuota  # not looked at: it could be the next guess
    assert told(b"192.0.2.2", late.text) is None
    clock.now_s += 1.5
    assert told(b"192.0.2.1", new_key().text) is Unauthenticated
    clock.now_s += 1.5
    assert told(b"192.0.2.1", late.text) is None


def test_who_was_good_is_not_locked_out_by_others_of_his_address() -> None:
    key, other = made_key("team", SCORES), made_key("other", SCORES)
    guard, scorer, clock = guarding(key)
    proxy = b"192.0.2.1"
    assert guard.admitted(bearer(key.text), proxy).name == "key team"

    def flood() -> None:
        for _ in range(round(WRONG_AT_ONCE)):
            with pytest.raises((Unauthenticated, OverQuota)):
                guard.admitted(bearer(new_key().text), proxy)
        with pytest.raises(OverQuota):
            guard.admitted(bearer(new_key().text), proxy)

    flood()
    clock.now_s += KNOWN_S  # he has to be looked up again
    flood()
    assert guard.admitted(bearer(key.text), proxy).name == "key team"
    scorer.table = closed(table(), key, other)  # and again with every change of the policy
    assert guard.admitted(bearer(key.text), proxy).name == "key team"
    scorer.table = closed(table(), other)
    with pytest.raises(Unauthenticated):
        guard.admitted(bearer(key.text), proxy)
    with pytest.raises(OverQuota):
        guard.admitted(bearer(key.text), proxy)


def test_a_certificate_counts_only_behind_a_door_and_a_key_before_it() -> None:
    headers = {b"authorization": b"Bearer x", b"x-headrace-peer": b"MII"}
    assert in_headers(headers, behind_door=True) == Credential(b"Bearer x", b"MII")
    assert in_headers(headers, behind_door=False) == Credential(b"Bearer x", b"")
    guard, _, _ = guarding()
    for der in (b"MII", b"????", base64.b64encode(b"no certificate")):
        with pytest.raises(Unauthenticated):
            guard.admitted(Credential(b"", der))


def test_without_a_document_a_certificate_shuts_nobody_out() -> None:
    der = CA().issue_cert("scorer.example").cert_chain_pems[0].bytes()
    shown = Credential(b"", base64.b64encode(load_pem_x509_certificate(der).public_bytes(Encoding.DER)))
    guard, scorer, clock = guarding(visitors=True, routes=table())
    clock.now_s = time.time()
    caller = guard.admitted(shown)
    assert (caller.name, caller.may(Role.SCORE, "pair"), caller.may(Role.OPERATE, "pair")) == (
        "certificate scorer.example",
        True,
        False,
    )
    scorer.table = closed(table())
    assert guard.admitted(shown).grants == ()
    closed_to_all, _, clock = guarding(visitors=False, routes=table())
    clock.now_s = time.time()
    assert closed_to_all.admitted(shown).grants == ()


def test_a_head_is_remembered_without_its_secrets() -> None:
    head = b"POST /v2/models/pair/infer HTTP/1.1\r\nhost: x\r\n%bcontent-length: 3\r\n\r\n"
    rest, credential = cut(head % b"authorization: Bearer hr_x\r\nx-headrace-peer: MII\r\n")
    assert (rest, credential) == (head % b"", Credential(b"Bearer hr_x", b"MII"))
    assert cut(head % b"") == (head % b"", NOTHING)
    last = b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer y\r\n\r\n"
    assert cut(last) == (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", Credential(b"Bearer y"))
    with pytest.raises(HeadraceError, match="twice"):
        cut(head % b"authorization: Bearer a\r\nauthorization: Bearer b\r\n")


def test_what_is_neither_key_nor_token_has_no_secret() -> None:
    assert secret_of(b"Basic " + base64.b64encode(b"id:secret")) == "hr_id_secret"
    assert secret_of(b"Negotiate abc") is None


def test_it_follows_issuers_only_where_there_are_some() -> None:
    async def scene() -> None:
        guard, _, _ = guarding()
        guard.start(behind_door=True)
        assert guard.behind_door
        await guard.close()
        await guard.close()

    asyncio.run(scene())


def test_a_stored_key_holds_no_secret() -> None:
    key = made_key("team", SCORES)
    assert key.text not in repr(key.stored)
    assert isinstance(key.stored, StoredKey)
