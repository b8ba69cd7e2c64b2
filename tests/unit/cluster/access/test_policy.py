"""Who is who, and what he may do by a document: a union of grants, and nothing by default."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.access.callers import EVERYTHING, STRANGER, VISITOR, Role, grant_of
from cluster.access.keys import StoredKey
from cluster.access.policy import Access, AccessPolicy

CORP = {"name": "corp", "issuer": "https://id.example", "audience": "headrace", "discover": True}
ACCESS = {
    "issuers": [CORP],
    "grants": [
        {"to": {"key": "fraud"}, "roles": ["score", "view"], "models": ["fraud-*"]},
        {"to": {"issuer": "corp", "claim": "groups", "value": "ops"}, "roles": ["operate"], "models": ["*"]},
        {"to": {"issuer": "corp", "value": "ann"}, "roles": ["deploy"], "models": ["churn"]},
        {"to": {"certificate": "scorer.example"}, "roles": ["score"], "models": ["churn", "fraud-eu"]},
        {"to": {"anyone": True}, "roles": ["score"], "models": ["open"]},
    ],
    "quotas": [
        {"to": {"key": "fraud"}, "models": ["fraud-*"], "rows_per_s": 100},
        {"requests_per_s": 5},
    ],
}
POLICY = AccessPolicy(Access.model_validate(ACCESS))


def key(name: str = "fraud", **more: object) -> StoredKey:
    return StoredKey("a" * 10, name, "0" * 64, **{"grants": (), "created_s": 0.0, **more})  # type: ignore[arg-type]


def test_a_key_has_its_own_grants_and_those_of_its_name() -> None:
    caller = POLICY.of_key(key(grants=(grant_of([Role.OPERATE], "churn"),)))
    assert caller.name == "key fraud"
    assert caller.may(Role.SCORE, "fraud-eu")
    assert caller.may(Role.VIEW, "fraud-eu")
    assert not caller.may(Role.OPERATE, "fraud-eu")
    assert caller.may(Role.OPERATE, "churn")
    assert not caller.may(Role.SCORE, "churn")
    assert caller.may(Role.SCORE, "open")
    assert caller.sees("churn")
    assert not caller.sees("fraud")
    assert not caller.sees_all
    assert not caller.is_admin
    assert caller.quota("fraud-eu") == POLICY.of_key(key()).quotas[0]
    assert caller.quota("open").requests_per_s == 5  # type: ignore[union-attr]


def test_a_token_has_the_grants_of_its_claims() -> None:
    ops = POLICY.of_token("corp", "bob", {"groups": ("ops", "staff")})
    assert (ops.name, ops.may(Role.OPERATE, "anything"), ops.may(Role.DEPLOY, "churn")) == ("corp bob", True, False)
    ann = POLICY.of_token("corp", "ann", {})
    assert (ann.may(Role.DEPLOY, "churn"), ann.sees("fraud-eu")) == (True, False)
    # A claim can't stand for the subject, nor an issuer for another.
    assert not POLICY.of_token("corp", "eve", {"groups": ("ann",)}).may(Role.DEPLOY, "churn")
    assert not POLICY.of_token("other", "ann", {"groups": ("ops",)}).sees("churn")


def test_a_certificate_has_the_grants_of_its_names() -> None:
    caller = POLICY.of_certificate({"scorer.example", "spiffe://x/y"})
    assert caller.may(Role.SCORE, "churn")
    assert not caller.may(Role.VIEW, "churn")
    assert not POLICY.of_certificate({"scorer.example.org"}).may(Role.SCORE, "churn")


def test_nobody_has_what_anyone_may() -> None:
    nobody = POLICY.of_nobody()
    assert nobody.anonymous
    assert nobody.may(Role.SCORE, "open")
    assert not nobody.sees("churn")
    assert AccessPolicy(Access()).of_nobody().grants == STRANGER.grants == ()
    assert VISITOR.may(Role.VIEW, "any")
    assert not VISITOR.may(Role.OPERATE, "any")


def test_a_home_may_everything_whatever_the_document_says() -> None:
    home = AccessPolicy(Access()).of_key(key("home", grants=EVERYTHING, home=True))
    assert home.is_admin
    assert home.sees_all
    assert all(home.may(role, "any") for role in Role)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"grants": [{"to": {}, "roles": ["score"], "models": ["*"]}]}, "exactly one of key, issuer, certificate and anyone"),
        ({"grants": [{"to": {"key": "a", "anyone": True}, "roles": ["score"], "models": ["*"]}]}, "exactly one of"),
        ({"grants": [{"to": {"issuer": "corp"}, "roles": ["score"], "models": ["*"]}]}, "issuer goes with value"),
        ({"grants": [{"to": {"issuer": "x", "value": "y"}, "roles": ["score"], "models": ["*"]}]}, "no issuer is named 'x'"),
        ({"grants": [{"to": {"key": "a"}, "roles": ["score"], "models": []}]}, "at least 1"),
        ({"grants": [{"to": {"key": "a"}, "roles": ["score"], "models": ["[a-z]"]}]}, "a model's name, in which"),
        ({"grants": [{"to": {"key": "a"}, "roles": ["admin"], "models": ["fraud-*"]}]}, "admin is over everything"),
        ({"grants": [{"to": {"key": "a"}, "roles": ["root"], "models": ["*"]}]}, "Input should be 'score'"),
        ({"grants": [{"to": {"key": " a"}, "roles": ["score"], "models": ["*"]}]}, "without blanks around"),
        ({"grants": [{"to": {"key": "a\n[red]"}, "roles": ["score"], "models": ["*"]}]}, "that can be printed"),
        ({"grants": [{"to": {"anyone": True}, "roles": ["view", "operate"], "models": ["*"]}]}, "anyone may score and view"),
        ({"quotas": [{"requests_per_s": 0}]}, "greater than 0"),
        ({"quotas": [{"rows_per_s": float("inf")}]}, "finite number"),
        ({"issuers": [{**CORP, "name": "key"}]}, "callers of another kind"),
        ({"issuers": [CORP, CORP]}, "two issuers have the same"),
        ({"deny": []}, "Extra inputs are not permitted"),
    ],
)
def test_a_document_that_says_nothing_clear_is_refused(document: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Access.model_validate(document)
