"""Whose tokens are believed, as a document says it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.access.issuers import ISSUERS_MOST, Issuer, Issuers

SAID = {"name": "corp", "issuer": "https://id.example", "audience": "headrace", "keys": "https://id.example/keys"}


def test_what_need_not_be_said() -> None:
    issuer = Issuer.model_validate(SAID)
    assert issuer.algorithms == ("RS256", "ES256")
    assert issuer.leeway_s == 30
    assert issuer.keys_file is None
    assert Issuer.model_validate(issuer.model_dump(mode="json")) == issuer


@pytest.mark.parametrize(
    "said",
    [
        {"keys": "/etc/headrace/keys.json"},
        {"keys": "http://localhost:8080/keys"},
        {"keys": "http://127.0.0.7/keys"},
        {"keys": "http://[::1]:8080/keys"},
        {"keys": "", "discover": True},
        {"keys": "", "discover": True, "issuer": "http://127.0.0.1:8080/realms/a"},
        {"issuer": "kubernetes/serviceaccount"},
        {"algorithms": ["PS512", "EdDSA"], "leeway_s": 60},
    ],
)
def test_what_can_be_said(said: dict[str, Any]) -> None:
    assert Issuer.model_validate({**SAID, **said})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"keys": "http://id.example/keys"}, "plain http"),
        ({"keys": "http://localhost.evil.example/keys"}, "plain http"),
        ({"keys": "http://127.0.0.1.evil.example/keys"}, "plain http"),
        ({"keys": "http://127.0.0.1@evil.example/keys"}, "a user or a password"),
        ({"keys": "https://ann:secret@id.example/keys"}, "a user or a password"),
        ({"keys": "https://id.example\\@evil.example/keys"}, "backslashes"),
        ({"keys": "https://id.exa\nmple/keys"}, "characters that a URL can't have"),
        ({"keys": "https://id.example:port/keys"}, "is no URL"),
        ({"keys": "https:///keys"}, "a host"),
        ({"keys": "ftp://id.example/keys"}, "https://"),
        ({"keys": "keys.json"}, "absolute path"),
        ({"keys": "/etc/headrace/"}, "the path of a file"),
        ({"keys": "https://id.example/#keys"}, "fragment"),
        ({"keys": ""}, "where the keys are"),
        ({"discover": True}, "where the keys are"),
        ({"keys": "", "discover": True, "issuer": "corp"}, "`issuer` must be an https URL"),
        ({"keys": "", "discover": True, "issuer": "http://id.example"}, "plain http"),
        ({"keys": "", "discover": True, "issuer": "https://id.example?a=b"}, "query"),
        ({"algorithms": ["HS256"]}, "proves nothing"),
        ({"algorithms": ["none"]}, "proves nothing"),
        ({"algorithms": ["ES256K"]}, "'RS256'"),
        ({"algorithms": []}, "at least one algorithm"),
        ({"algorithms": ["RS256", "RS256"]}, "each once"),
        ({"leeway_s": 61}, "60"),
        ({"leeway_s": -1}, "0"),
        ({"issuer": " https://id.example"}, "spaces around"),
        ({"audience": ""}, "at least 1"),
        ({"name": "Corp/1"}, "pattern"),
        ({"audiance": "x"}, "audiance"),
    ],
)
def test_what_can_not_be_said(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Issuer.model_validate({**SAID, **said})
    assert told in str(caught.value)


def test_a_name_and_an_iss_stand_for_one() -> None:
    listed = TypeAdapter(Issuers)
    other = {**SAID, "name": "lab", "issuer": "https://lab.example"}
    assert [each.name for each in listed.validate_python([SAID, other])] == ["corp", "lab"]
    for field in ("name", "issuer"):
        with pytest.raises(ValidationError, match=f"the same `{field}`"):
            listed.validate_python([SAID, {**other, field: SAID[field]}])
    with pytest.raises(ValidationError, match=f"at most {ISSUERS_MOST}"):
        listed.validate_python([{**SAID, "name": f"n{i}", "issuer": f"i{i}"} for i in range(ISSUERS_MOST + 1)])
