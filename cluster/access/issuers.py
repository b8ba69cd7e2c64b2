"""Whose tokens are believed, and where the keys are that they are signed with."""

from __future__ import annotations

import re
from collections import Counter
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.section import Section
from cluster.versions import NAME_PATTERN

ISSUERS_MOST = 20
LEEWAY_MOST_S = 60
_LONGEST = 2048  # of a URL or path
_OTHER_CALLERS = frozenset({"key", "home", "certificate", "the"})  # the first words of their names, as in "key fraud-team"


class SigningAlgorithm(StrEnum):
    """Of a token's signature, as RFC 7518 and RFC 8037 name them. Asymmetric all: who can verify can't sign."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"


class Issuer(Section):
    """One who issues tokens (JWT, RFC 7519). A token is believed if it is signed with one of his keys, has exactly his `iss`, and
    names `audience` among those it is for.

    The keys are a JWKS (RFC 7517): at `keys`, an https URL, or the absolute path of a file that each node with a gateway has; or,
    by `discover`, where `<issuer>/.well-known/openid-configuration` says. Plain http is for loopback only.
    """

    name: str = Field(pattern=NAME_PATTERN, description="what grants call this issuer")
    issuer: str = Field(min_length=1, max_length=_LONGEST, description="a token's `iss`, to the letter")
    audience: str = Field(min_length=1, max_length=_LONGEST, description="one of a token's `aud`, to the letter")
    keys: str = Field(default="", max_length=_LONGEST, description="the https URL or the absolute path of the JWKS")
    discover: bool = Field(default=False, description="finds the JWKS by OpenID Connect Discovery, instead of `keys`")
    algorithms: tuple[SigningAlgorithm, ...] = (SigningAlgorithm.RS256, SigningAlgorithm.ES256)
    leeway_s: float = Field(default=30, ge=0, le=LEEWAY_MOST_S, description="how far the issuer's clock may be off")

    @property
    def keys_file(self) -> str | None:
        """The file that has the keys; None where they are asked for by HTTP."""
        return self.keys if self.keys.startswith("/") else None

    @property
    def asks_loopback(self) -> bool:
        """Whether this machine itself is asked for the keys."""
        return is_loopback(self.issuer if self.discover else self.keys)

    @field_validator("name")
    @classmethod
    def _no_other_caller(cls, value: str) -> str:
        if value in _OTHER_CALLERS:  # in the audit and in quotas a caller is this name and the subject
            raise ValueError(f"{value!r} is what callers of another kind are called: choose another name")
        return value

    @field_validator("issuer", "audience")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not value.isprintable() or value != value.strip():
            raise ValueError("it has spaces around it, or characters that can't be printed")
        return value

    @field_validator("algorithms", mode="before")
    @classmethod
    def _asymmetric(cls, value: object) -> object:
        for each in value if isinstance(value, list | tuple) else ():
            if isinstance(each, str) and (each.upper().startswith("HS") or each.lower() == "none"):
                what = f"{each} proves nothing here: a gateway that can verify it could sign it too, or anybody could"
                raise ValueError(f"{what}; take one of {', '.join(SigningAlgorithm)}")
        return value

    @field_validator("algorithms")
    @classmethod
    def _some(cls, value: tuple[SigningAlgorithm, ...]) -> tuple[SigningAlgorithm, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("name at least one algorithm, and each once")
        return value

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.discover == bool(self.keys):
            raise ValueError("say where the keys are: by `keys` (an https URL or an absolute path), or by `discover: true`")
        if self.discover:
            if fault := address_fault(self.issuer, loopback=True):
                raise ValueError(f"`discover` asks the issuer, so `issuer` must be an https URL; it {fault}")
            if "?" in self.issuer:
                raise ValueError("`discover` adds a path to `issuer`, which must have no query then")
        elif (path := self.keys_file) is not None:
            if not path.isprintable() or path.endswith("/"):
                raise ValueError("`keys` must be the path of a file")
        elif fault := address_fault(self.keys, loopback=True):
            raise ValueError(f"`keys` must be an https URL or the absolute path of a file; it {fault}")
        return self


def _distinct(issuers: tuple[Issuer, ...]) -> tuple[Issuer, ...]:
    """Raises ValueError where a name, or an `iss`, would stand for two."""
    for field in ("name", "issuer"):
        twice = sorted(value for value, times in Counter(getattr(each, field) for each in issuers).items() if times > 1)
        if twice:
            raise ValueError(f"two issuers have the same `{field}`: {twice[0]}")
    return issuers


Issuers = Annotated[tuple[Issuer, ...], Field(max_length=ISSUERS_MOST), AfterValidator(_distinct)]
"""As a document lists them: no two of the same name, or of the same `iss`."""


def address_fault(url: str, *, loopback: bool) -> str:
    """Why keys can't be asked for at `url`, as follows "it"; "" if they can. `loopback`: this machine may do with http."""
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        return "has spaces, backslashes or characters that a URL can't have"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is none raises
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("https", "http") or not host:
        return "does not begin with https:// and a host"
    if "@" in parts.netloc:
        return "has a user or a password in it"
    if "#" in url:
        return "has a fragment (#)"
    if parts.scheme == "http" and not (loopback and is_loopback(url)):
        return "is plain http, by which anybody on the way could put in keys of his own"
    return ""


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine, by its form alone: no name is looked up."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
