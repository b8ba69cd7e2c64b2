"""What is usable of a JWKS."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.gateway.access.signing_keys import KEYS_MOST, SigningKey, parse_keys
from tests.support.token_issuer import jwk, jwks, part, private_key, rsa_key

GOOD = jwk("ES256", "good")


def test_keys_fit_the_algorithms_of_their_kind() -> None:
    parsed = parse_keys(jwks(jwk("RS256", "r"), jwk("ES256"), jwk("ES384"), jwk("ES512", "e"), jwk("EdDSA", "d", use="sig")))
    assert parsed.left_out == ()
    assert {kid: [sorted(key.algorithms) for key in keys] for kid, keys in parsed.keys.items()} == {
        "r": [["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]],
        None: [["ES256"], ["ES384"]],
        "e": [["ES512"]],
        "d": [["EdDSA"]],
    }


def test_a_key_made_for_one_algorithm_fits_it_alone() -> None:
    parsed = parse_keys(jwks(jwk("RS256", "r", alg="PS256", key_ops=["verify"])))
    assert [key.algorithms for key in parsed.keys["r"]] == [{"PS256"}]


def _private() -> dict[str, Any]:
    return jwt.get_algorithm_by_name("ES256").to_jwk(private_key("ES256"), as_dict=True)


def _weak() -> dict[str, Any]:
    return jwt.get_algorithm_by_name("RS256").to_jwk(rsa_key(1024).public_key(), as_dict=True)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"kty": "oct", "k": part(b"secret")}, "a shared secret"),
        ({**GOOD, "use": "enc"}, "not for signatures"),
        ({**GOOD, "key_ops": ["sign"]}, "not for signatures"),
        ({**GOOD, "key_ops": "verify"}, "not for signatures"),
        ({**GOOD, "alg": "HS256"}, "`alg`"),
        ({**GOOD, "alg": "RS256"}, "`alg`"),
        ({**GOOD, "alg": None}, "`alg`"),
        ({**GOOD, "crv": "secp256k1"}, "`crv`"),
        ({**GOOD, "crv": ["P-256"]}, "`crv`"),
        ({**GOOD, "kty": "RSA"}, "a part of it is missing"),
        ({**GOOD, "x": GOOD["y"]}, "not a point"),
        ({**GOOD, "x": 7}, "a part of it is missing"),
        ({**GOOD, "x": ""}, "not a point"),
        ({"kty": "RSA", "n": "A" * 100_000, "e": "AQAB"}, "too long"),
        ({**GOOD, "kid": 7}, "`kid`"),
        ({**GOOD, "kid": "k" * 257}, "`kid`"),
        ({"kty": "RSA", "n": "AQ", "e": "AQAB"}, "not a point or number"),
        ({}, "`kty`"),
        ("key", "no JSON object"),
        (None, "no JSON object"),
    ],
)
def test_what_is_not_usable_is_left_out_and_told(bad: Any, why: str) -> None:
    parsed = parse_keys(jwks(bad, GOOD))
    assert list(parsed.keys) == ["good"]
    [told] = parsed.left_out
    assert why in told


def test_nesting_that_can_just_be_read_is_no_harm() -> None:
    for depth in range(800, 1000, 7):
        nested = b"[" * depth + b"]" * depth
        data = jwks(GOOD).replace(b'{"keys": [', b'{"keys": [{"kty": ' + nested + b', "crv": ' + nested + b"}, ")
        try:
            found = list(parse_keys(data).keys)
        except ValueError as error:
            found = [str(error)]
        assert found in (["good"], ["what came is no JWKS: nested too deep"])


def test_a_private_or_a_weak_key_is_left_out_and_nothing_of_it_is_told() -> None:
    private = _private()
    parsed = parse_keys(jwks({**private, "kid": "p"}, {**_weak(), "kid": "w"}, GOOD))
    assert list(parsed.keys) == ["good"]
    assert "'p': a private key" in parsed.left_out[0]
    assert "'w': of 1024 bits" in parsed.left_out[1]
    assert private["d"] not in str(parsed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        b'{"keys": [], "keys": []}',
        b"[" * 100_000,
        b'{"keys": ' + b"[" * 100_000,
        b"\xff\xfe{\x00}\x00",
        jwks(*[GOOD] * (KEYS_MOST + 1)),
    ],
)
def test_what_has_no_usable_key_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        parse_keys(data)


_plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_json: st.SearchStrategy[Any] = st.recursive(
    _plain | st.text(max_size=60) | st.just(GOOD["x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_members = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops", "d"])


@settings(max_examples=200)
@given(st.sampled_from(["RS256", "ES256", "EdDSA"]), st.dictionaries(_members, _json, max_size=3))
def test_whatever_is_in_a_key_it_is_usable_or_left_out(algorithm: str, changed: dict[str, Any]) -> None:
    parsed = parse_keys(json.dumps({"keys": [{**jwk(algorithm, "k"), **changed}, GOOD]}).encode())
    taken = [key for keys in parsed.keys.values() for key in keys]
    assert len(taken) + len(parsed.left_out) == 2
    assert all(isinstance(key, SigningKey) and key.algorithms for key in taken)
