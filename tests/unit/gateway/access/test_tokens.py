"""Tokens that are believed, and those that are not: whatever comes, it is a refusal and no other exception."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.access.issuers import Issuer, SigningAlgorithm
from deployments.gateway.access.bad_credential import BadCredential, CredentialFault
from deployments.gateway.access.signing_keys import NO_KEYS, SigningKeys, parse_keys
from deployments.gateway.access.tokens import TOKEN_MOST_BYTES, VerifiedToken, verify_token
from tests.support.token_issuer import CLAIMS, NOW_S, jwk, jwks, part, private_key, signed

LEEWAY_S = 30.0
ISSUER = Issuer(
    name="corp", issuer="https://id.example", audience="headrace", keys="/keys.json", algorithms=tuple(SigningAlgorithm)
)
KEYS = parse_keys(jwks(*(jwk(alg, alg) for alg in ("RS256", "ES256", "ES384", "ES512", "EdDSA")))).keys
HEADER = {"alg": "ES256", "kid": "ES256", "typ": "JWT"}
GOOD = signed(HEADER, CLAIMS)


class Trusted:
    """One issuer, with these keys. `unknown` counts the tokens with keys that are not here."""

    def __init__(self, issuer: Issuer = ISSUER, keys: SigningKeys = KEYS) -> None:
        self._issuer, self._keys = issuer, keys
        self.unknown = 0

    def issuer_of(self, iss: str) -> Issuer | None:
        return self._issuer if iss == self._issuer.issuer else None

    def keys_of(self, name: str) -> SigningKeys:
        assert name == self._issuer.name
        return self._keys

    def key_unknown(self, name: str) -> None:
        assert name == self._issuer.name
        self.unknown += 1


def refusal(token: str, trusted: Trusted | None = None, now_s: float = NOW_S) -> CredentialFault:
    with pytest.raises(BadCredential) as caught:
        verify_token(token, trusted or Trusted(), now_s)
    assert str(caught.value) == "the credential is not accepted"
    return caught.value.reason


@pytest.mark.parametrize("algorithm", SigningAlgorithm)
def test_each_algorithm_is_verified(algorithm: SigningAlgorithm) -> None:
    kid = "RS256" if algorithm.startswith(("RS", "PS")) else algorithm.value
    token = signed({"alg": algorithm, "kid": kid}, CLAIMS, algorithm)
    assert verify_token(token, Trusted(), NOW_S) == VerifiedToken(
        "corp", "ann", {"iss": ("https://id.example",), "aud": ("headrace",), "sub": ("ann",)}, NOW_S + 300 + LEEWAY_S
    )
    other = signed({"alg": algorithm, "kid": kid}, {**CLAIMS, "sub": "bob"}, algorithm)
    assert refusal(".".join([*other.split(".")[:2], token.split(".")[2]])) == "bad_signature"
    rest = tuple(each for each in SigningAlgorithm if each != algorithm)
    assert refusal(token, Trusted(ISSUER.model_copy(update={"algorithms": rest}))) == "wrong_algorithm"


def test_claims_are_strings_by_their_path() -> None:
    more = {
        "groups": ["a", "b"],
        "scope": "read write",
        "realm_access": {"roles": ["admin"], "deep": {"er": {"still": "here", "too": {"deep": "x"}}}},
        "https://example.com/team": "blue",
        "age": 7,
        "mixed": ["a", 1],
        "odd": "a\nb",
        "o\u0000dd": "a",
    }
    found = verify_token(signed(HEADER, {**CLAIMS, **more}), Trusted(), NOW_S).claims
    assert {name: found[name] for name in found if name not in CLAIMS} == {
        "groups": ("a", "b"),
        "scope": ("read", "write"),
        "realm_access.roles": ("admin",),
        "realm_access.deep.er.still": ("here",),
        "https://example.com/team": ("blue",),
    }


def with_claims(changed: dict[str, Any], *without: str) -> str:
    return signed(HEADER, {name: value for name, value in {**CLAIMS, **changed}.items() if name not in without})


def with_header(**changed: Any) -> str:
    return signed({**HEADER, **changed}, CLAIMS)


def raw(claims: str) -> str:
    return signed(HEADER, claims.encode())


def raw_with(more: str) -> str:
    return raw(json.dumps(CLAIMS)[:-1] + f", {more}}}")


def shared_secret() -> str:
    """Signed with the public key, as if that were a secret."""
    import hashlib
    import hmac

    pem = private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': 'HS256', 'kid': 'RS256'})}.{part(dict(CLAIMS))}"
    return f"{text}.{part(hmac.digest(pem, text.encode(), hashlib.sha256))}"


def resigned(signature: bytes) -> str:
    return ".".join([*GOOD.split(".")[:2], part(signature)])


def der_signature() -> str:
    plain = base64.urlsafe_b64decode(GOOD.split(".")[2] + "==")
    return resigned(encode_dss_signature(int.from_bytes(plain[:32]), int.from_bytes(plain[32:])))


BAD: dict[str, list[Callable[[], str] | str]] = {
    "too_large": ["a" * (TOKEN_MOST_BYTES + 1), lambda: with_claims({"x": "y" * TOKEN_MOST_BYTES})],
    "malformed": [
        "",
        ".",
        "..",
        "a.b.c",
        "é.é.é",
        "\ud800",
        GOOD + "=",
        GOOD + ".",
        " " + GOOD,
        GOOD + "\n",
        "Bearer " + GOOD,
        GOOD.rpartition(".")[0],
        GOOD.rpartition(".")[0] + ".",
        GOOD + "." + GOOD,
        GOOD.replace(".", " .", 1),
        "+" + GOOD[1:],
        json.dumps({"payload": GOOD.split(".")[1], "signatures": []}),
        lambda: signed([], CLAIMS),
        lambda: signed(b"{" + b'"alg":{' * 500, CLAIMS),
        lambda: signed(b'{"alg": "ES256", "kid": "ES256", "alg": "none"}', CLAIMS),
        lambda: signed(json.dumps(HEADER).encode("utf-16"), CLAIMS),
        lambda: signed(b"\xef\xbb\xbf" + json.dumps(HEADER).encode(), CLAIMS),
        lambda: with_header(typ=7),
        lambda: with_header(kid=7),
        lambda: with_header(kid=None),
        lambda: raw("[1]"),
        lambda: raw('"ann"'),
        lambda: raw(""),
        lambda: raw("{" + '"a":{' * 1000),
        lambda: raw("[" * 5000),
        lambda: raw_with('"sub": "bob"'),
        lambda: raw_with('"x": {"a": 1, "a": 2}'),
        lambda: raw_with('"x": NaN'),
        lambda: raw_with('"x": 1e999'),
        lambda: raw_with(f'"x": {"9" * 5000}'),
        lambda: with_claims({"exp": "1900000000"}),
        lambda: with_claims({"exp": True}),
        lambda: with_claims({"exp": None}),
        lambda: with_claims({"exp": [NOW_S + 300]}),
        lambda: with_claims({"exp": 10**300}),
        lambda: with_claims({"exp": 10**4000}),
        lambda: with_claims({"iat": -1}),
        lambda: with_claims({"nbf": {}}),
        lambda: with_claims({"nbf": None}),
        lambda: with_claims({"iss": ["https://id.example"]}),
        lambda: with_claims({"iss": ""}),
        lambda: with_claims({"sub": ""}),
        lambda: with_claims({"sub": 7}),
        lambda: with_claims({"sub": "a" * 256}),
        lambda: with_claims({"sub": "ann\nrole=admin"}),
        lambda: with_claims({"sub": "\ud800"}),
        lambda: with_claims({"aud": 7}),
        lambda: with_claims({"aud": ["headrace", 7]}),
        lambda: with_claims({"aud": {"headrace": 1}}),
        lambda: with_claims({"a.b": "x", "a": {"b": "y"}}),
    ],
    "critical_extension": [
        lambda: with_header(crit=["exp"]),
        lambda: with_header(crit=[]),
        lambda: with_header(crit=["b64"], b64=False),
        lambda: with_header(b64=False),
    ],
    "wrong_type": [lambda: with_header(typ="logout+jwt"), lambda: with_header(typ="dpop+jwt"), lambda: with_header(typ="")],
    "lacks_claim": [lambda name=name: with_claims({}, name) for name in ("exp", "iat", "iss", "aud", "sub")],  # type: ignore[misc]
    "unknown_issuer": [
        lambda: with_claims({"iss": "https://id.example/"}),
        lambda: with_claims({"iss": "https://ID.example"}),
        lambda: with_claims({"iss": "https://id.exampl"}),
        lambda: with_claims({"iss": "https://evil.example"}),
    ],
    "wrong_audience": [
        lambda: with_claims({"aud": "headrace2"}),
        lambda: with_claims({"aud": "head"}),
        lambda: with_claims({"aud": []}),
        lambda: with_claims({"aud": ["other", "Headrace"]}),
    ],
    "wrong_algorithm": [
        shared_secret,
        lambda: with_header(alg="none"),
        lambda: with_header(alg="nOnE"),
        lambda: with_header(alg="es256"),
        lambda: with_header(alg=["ES256"]),
        lambda: with_header(alg=None),
        lambda: with_header(alg="ES256K"),
        lambda: signed({"kid": "ES256"}, CLAIMS),
        lambda: with_header(alg="RS256"),
        lambda: with_header(alg="ES384"),
        lambda: with_header(kid="RS256"),
        lambda: with_header(kid="EdDSA"),
    ],
    "unknown_key": [lambda: with_header(kid="other"), lambda: with_header(kid=""), lambda: with_header(kid="../../keys")],
    "bad_signature": [
        GOOD[:-4],
        lambda: resigned(b"\0" * 64),
        lambda: resigned(b"\0"),
        lambda: resigned(b"\xff" * 64),
        lambda: resigned(b"\x01" * 4000),
        der_signature,
        lambda: signed(HEADER, CLAIMS, "ES384"),
        lambda: signed({"alg": "RS256", "kid": "RS256"}, CLAIMS, "RS256", number=1),
        lambda: signed({"alg": "EdDSA", "kid": "EdDSA"}, CLAIMS, "ES256"),
        # Keys that the token brings, or names the place of, are not looked at.
        lambda: signed({"alg": "RS256", "kid": "RS256", "jwk": jwk("RS256", number=1)}, CLAIMS, "RS256", number=1),
        lambda: signed({"alg": "RS256", "kid": "RS256", "jku": "http://127.0.0.1:9/keys"}, CLAIMS, "RS256", number=1),
    ],
    "expired": [lambda: with_claims({"exp": NOW_S - LEEWAY_S}), lambda: with_claims({"exp": 0})],
    "not_yet_valid": [
        lambda: with_claims({"iat": NOW_S + LEEWAY_S + 1}),
        lambda: with_claims({"nbf": NOW_S + LEEWAY_S + 1}),
        lambda: with_claims({"iat": NOW_S + LEEWAY_S + 1, "nbf": NOW_S - 10}),
    ],
    "too_many_claims": [
        lambda: with_claims({f"c{i}": "" for i in range(201)}),
        lambda: with_claims({"groups": ["a"] * 1001}),
    ],
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_not_believed(reason: str) -> None:
    made = [one if isinstance(one, str) else one() for one in BAD[reason]]
    assert {token[:200]: refusal(token) for token in made} == {token[:200]: reason for token in made}


def test_what_is_believed_all_the_same() -> None:
    for token in (
        with_claims({"aud": ["other", "headrace"]}),
        with_claims({"exp": NOW_S - LEEWAY_S + 1}),
        with_claims({"exp": NOW_S + 0.5}),
        with_claims({"iat": NOW_S + LEEWAY_S, "nbf": NOW_S + LEEWAY_S}),
        with_claims({"sub": "Zoë Müller"}),
        with_header(typ="at+jwt"),
        with_header(jku="https://evil.example", x5u="https://evil.example", x5c=["AAAA"]),
    ):
        assert verify_token(token, Trusted(), NOW_S).issuer == "corp"


def test_a_token_counts_until_the_instant_that_it_says() -> None:
    until_s = verify_token(GOOD, Trusted(), NOW_S).until_s
    assert verify_token(GOOD, Trusted(), until_s - 0.01).until_s == until_s
    assert refusal(GOOD, now_s=until_s) == "expired"


def test_without_a_kid_the_one_key_that_fits_counts() -> None:
    token = signed({"alg": "ES256"}, CLAIMS)
    assert verify_token(token, Trusted(), NOW_S).subject == "ann"
    assert verify_token(token, Trusted(keys=parse_keys(jwks(jwk("RS256"), jwk("ES256"))).keys), NOW_S).subject == "ann"
    twice = parse_keys(jwks(jwk("ES256", "a"), jwk("ES256", "b"), jwk("EdDSA", "c"))).keys
    assert refusal(token, Trusted(keys=twice)) == "ambiguous_key"


def test_one_kid_for_two_keys_is_told_apart_by_their_kind_alone() -> None:
    kinds = parse_keys(jwks(jwk("RS256", "k"), jwk("ES256", "k"))).keys
    token = signed({"alg": "ES256", "kid": "k"}, CLAIMS)
    assert verify_token(token, Trusted(keys=kinds), NOW_S).subject == "ann"
    assert refusal(token, Trusted(keys=parse_keys(jwks(jwk("ES256", "k"), jwk("ES256", "k"))).keys)) == "ambiguous_key"


def test_a_key_that_is_not_here_is_told_of() -> None:
    def told(token: str, keys: Iterable[dict[str, Any]]) -> tuple[str, int]:
        trusted = Trusted(keys=parse_keys(jwks(*keys)).keys)
        return refusal(token, trusted), trusted.unknown

    assert told(with_header(kid="new"), [jwk("ES256", "old")]) == ("unknown_key", 1)
    # An issuer that names no keys has new ones all the same.
    assert told(signed({"alg": "ES256"}, CLAIMS), [jwk("RS256")]) == ("unknown_key", 1)
    assert told(signed({"alg": "RS256"}, CLAIMS, "RS256", number=1), [jwk("RS256")]) == ("bad_signature", 1)
    assert told(signed({"alg": "RS256", "kid": "a"}, CLAIMS, "RS256", number=1), [jwk("RS256", "a")]) == ("bad_signature", 0)


def test_where_no_keys_are_here_yet_this_is_said() -> None:
    assert refusal(GOOD, Trusted(keys=NO_KEYS)) == "no_keys"


def verdict(token: str) -> VerifiedToken | CredentialFault:
    try:
        return verify_token(token, Trusted(), NOW_S)
    except BadCredential as refused:
        return refused.reason


@settings(max_examples=300)
@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.text(max_size=3) | st.text("AZaz09-_.=+/ ", max_size=3))
def test_a_token_that_was_changed_is_not_believed(place: int, cut: int, put_in: str) -> None:
    changed = GOOD[:place] + put_in + GOOD[place + cut :]
    assert (verdict(changed) == verdict(GOOD)) == (changed == GOOD)


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([NOW_S, "headrace"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.thorough
@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c", "cty"]), _json, max_size=3),
    st.dictionaries(st.sampled_from([*CLAIMS, "nbf", "groups", "scope", "a.b"]), _json, max_size=4),
)
def test_whatever_an_issuer_signs_is_believed_or_refused(header: dict[str, Any], claims: dict[str, Any]) -> None:
    found = verdict(signed({**HEADER, **header}, {**CLAIMS, **claims}))
    assert isinstance(found, CredentialFault) or (found.issuer, found.subject) == ("corp", {**CLAIMS, **claims}["sub"])


@settings(max_examples=200)
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_bytes_at_random_are_refused(head: bytes, body: bytes, signature: bytes) -> None:
    assert isinstance(verdict(f"{part(head)}.{part(body)}.{part(signature)}"), CredentialFault)


def test_a_gateway_without_issuers_does_not_pay_for_the_libraries() -> None:
    rooms = ", ".join(f"deployments.gateway.access.{name}" for name in ("certificates", "key_sets", "tokens"))
    heavy = '{"jwt", "cryptography", "httpx"}'
    program = f"import sys, {rooms}; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout == "[]\n"
