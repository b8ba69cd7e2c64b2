"""Whom a client certificate names."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.gateway.access.bad_credential import BadCredential, CredentialFault
from deployments.gateway.access.certificates import CERTIFICATE_MOST_BYTES, NAMES_MOST, CertificateNames, names_of
from tests.support import token_issuer
from tests.support.token_issuer import NOW_S, private_key

DAY_S = 86400.0


def certificate(common: Sequence[str], alternative: Sequence[x509.GeneralName] | None = None) -> bytes:
    """As DER; of the day before NOW_S and the day after."""
    return token_issuer.certificate(private_key("ES256"), common, alternative, NOW_S)


@functools.cache
def plain() -> bytes:
    return certificate(["ann"], [x509.UniformResourceIdentifier("spiffe://corp/ann")])


def refusal(der: bytes, now_s: float = NOW_S) -> CredentialFault:
    with pytest.raises(BadCredential) as caught:
        names_of(der, now_s)
    return caught.value.reason


def test_alternative_names_are_the_names() -> None:
    listed = [
        x509.UniformResourceIdentifier("spiffe://corp/Scorer"),
        x509.DNSName("Scorer.Corp.example"),
        x509.RFC822Name("ann@corp.example"),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    ]
    names = frozenset({"spiffe://corp/Scorer", "scorer.corp.example", "ann@corp.example"})
    assert names_of(certificate(["admin"], listed), NOW_S) == CertificateNames(names, NOW_S + DAY_S)


def test_the_common_name_counts_where_there_are_no_others() -> None:
    assert names_of(certificate(["ann"]), NOW_S).names == {"ann"}
    # One that has others, of kinds that name nobody here, is not the common name's.
    assert refusal(certificate(["ann"], [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))])) == "no_name"
    assert refusal(certificate([])) == "no_name"
    assert refusal(certificate(["ann", "admin"])) == "malformed"


def test_it_counts_from_and_until_the_instants_that_it_says() -> None:
    for now_s in (NOW_S - DAY_S, NOW_S + DAY_S - 1):
        assert names_of(plain(), now_s).names == {"spiffe://corp/ann"}
    assert refusal(plain(), NOW_S - DAY_S - 1) == "not_yet_valid"
    assert refusal(plain(), NOW_S + DAY_S) == "expired"


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        (b"", "malformed"),
        (b"ann", "malformed"),
        (b"0" * (CERTIFICATE_MOST_BYTES + 1), "too_large"),
        (plain() + b"\0", "malformed"),
        (plain()[:-1], "malformed"),
        (certificate(["ann"], [x509.UniformResourceIdentifier("spiffe://corp/a\0b")]), "malformed"),
        (certificate(["ann\n"]), "malformed"),
        (certificate(["ann"], [x509.DNSName(f"h{i}.example") for i in range(NAMES_MOST + 1)]), "malformed"),
    ],
)
def test_what_is_no_certificate_or_an_odd_one_is_refused(der: bytes, reason: str) -> None:
    assert refusal(der) == reason


def verdict(der: bytes) -> frozenset[str] | CredentialFault:
    try:
        return names_of(der, NOW_S).names
    except BadCredential as refused:
        return refused.reason


@settings(max_examples=300)
@given(st.data())
def test_a_certificate_that_was_changed_has_names_or_is_refused(data: st.DataObject) -> None:
    der = bytearray(plain())
    for place in data.draw(st.lists(st.integers(0, len(der) - 1), min_size=1, max_size=3)):
        der[place] = data.draw(st.integers(0, 255))
    found = verdict(bytes(der))
    assert found in list(CredentialFault) or (found and all(name.isprintable() for name in found))


def test_a_version_of_x509_that_there_is_not_is_malformed() -> None:
    version = b"\xa0\x03\x02\x01\x02"  # which stands for 3
    assert plain().count(version) == 1
    assert refusal(plain().replace(version, version[:-1] + b"\x06")) == "malformed"
