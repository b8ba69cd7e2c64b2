"""Who may do what, as documents and keys say: what the controller publishes with the route table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from cluster.access.callers import Caller, Grant, Quota, Role
from cluster.access.issuers import Issuer, Issuers
from cluster.access.keys import StoredKey
from cluster.section import Section

_NAME_MOST = 200


def _stripped(text: str) -> str:
    if not text or text != text.strip() or len(text) > _NAME_MOST or not text.isprintable():
        raise ValueError(f"1 to {_NAME_MOST} characters that can be printed, without blanks around them")
    return text


Name = Annotated[str, AfterValidator(_stripped)]


class Subject(Section):
    """Who is meant: the keys of a name; the tokens of an issuer whose claim has a value; a client certificate by one of its names
    (DNS, URI or e-mail; its common name where it has none of these); or anyone, who has to bring nothing."""

    key: Name | None = None
    issuer: Name | None = None
    claim: Name = "sub"
    value: Name | None = None
    certificate: Name | None = None
    anyone: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum([self.key is not None, self.issuer is not None, self.certificate is not None, self.anyone]) != 1:
            raise ValueError("exactly one of key, issuer, certificate and anyone: true says who is meant")
        if (self.issuer is None) != (self.value is None):
            raise ValueError("issuer goes with value, that of the claim (`sub` unless `claim` names another)")
        return self


class SubjectGrant(Grant):
    """Roles over models for somebody."""

    to: Subject

    @model_validator(mode="after")
    def _anyone_changes_nothing(self) -> Self:
        if self.to.anyone and not {Role.SCORE, Role.VIEW}.issuperset(self.roles):
            raise ValueError("anyone may score and view; what changes something is for somebody who is known")
        return self


class SubjectQuota(Quota):
    """A limit for somebody, or for each caller where nobody is named."""

    to: Subject | None = None


class Access(Section):
    """An Access document: there is one, and what it does not grant nobody may but by the grants of a key itself."""

    grants: tuple[SubjectGrant, ...] = Field(default=(), max_length=1000)
    issuers: Issuers = ()
    quotas: tuple[SubjectQuota, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _names_its_issuers(self) -> Self:
        names = [issuer.name for issuer in self.issuers]
        for subject in self._subjects():
            if subject.issuer is not None and subject.issuer not in names:
                raise ValueError(f"no issuer is named {subject.issuer!r}; named are: {', '.join(names) or 'none'}")
        return self

    def _subjects(self) -> list[Subject]:
        return [one.to for one in self.grants] + [one.to for one in self.quotas if one.to is not None]


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What a gateway must know to tell who may do what. Without a `document` the gateway's own settings say what those may who
    bring nothing."""

    document: Access | None = None
    keys: Mapping[str, StoredKey] = field(default_factory=dict)

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """Whose tokens are taken."""
        return () if self.document is None else self.document.issuers

    def of_key(self, key: StoredKey) -> Caller:
        """Who has that key."""
        if key.home:
            return Caller(f"home {key.id}", key.grants, speaks_for=True)
        return self._caller(f"key {key.name}", lambda subject: subject.key == key.name, key.grants)

    def of_token(self, issuer: str, subject: str, claims: Mapping[str, Collection[str]]) -> Caller:
        """Who has a token of that issuer. `claims` are the values of each."""
        told = {**claims, "sub": (subject,)}

        def is_meant(one: Subject) -> bool:
            return one.issuer == issuer and one.value in told.get(one.claim, ())

        return self._caller(f"{issuer} {subject}", is_meant)

    def of_certificate(self, names: Iterable[str]) -> Caller:
        """Who has a client certificate with these names."""
        known = sorted(names)
        return self._caller(f"certificate {known[0]}", lambda subject: subject.certificate in known)

    def of_nobody(self) -> Caller:
        """Who brings nothing, where there is a document."""
        return self._caller("anybody", lambda subject: subject.anyone, anonymous=True)

    def _caller(
        self, name: str, is_meant: Callable[[Subject], bool], own: tuple[Grant, ...] = (), *, anonymous: bool = False
    ) -> Caller:
        document = self.document or Access()
        grants = tuple(Grant(roles=one.roles, models=one.models) for one in document.grants if one.to.anyone or is_meant(one.to))
        quotas = [one for one in document.quotas if one.to is not None and is_meant(one.to)]
        quotas += [one for one in document.quotas if one.to is None]
        limits = (Quota.model_validate(one.model_dump(exclude={"to"})) for one in quotas)
        return Caller(name, (*own, *grants), tuple(limits), anonymous=anonymous)


NO_POLICY = AccessPolicy()
