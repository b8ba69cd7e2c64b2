"""Tokens of foreign issuers (JWT, RFC 7519), verified as RFC 8725 wants it.

What a token says of itself decides nothing: its issuer's entry fixes the algorithms and the audience, the kind of key must fit,
and where a key could be had from (`jku`, `jwk`, `x5u`, `x5c`) is not read. PyJWT checks the signature. The claims are checked
here: it takes the last of two equal ones, times that are no numbers, and the wall's clock.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from cluster.access.issuers import Issuer, SigningAlgorithm
from deployments.gateway.access.bad_credential import BadCredential, CredentialFault
from deployments.gateway.access.signing_keys import SigningKey, SigningKeys
from deployments.gateway.access.strict_json import object_of

if TYPE_CHECKING:
    from jwt import PyJWS

TOKEN_MOST_BYTES = 8192
SUBJECT_LONGEST = 255  # as OpenID Connect has it
CLAIMS_MOST, VALUES_MOST = 200, 1000
CLAIMS_DEEPEST = 4
# For access, by RFC 9068 or by older custom (JOSE: SPIFFE). Others are for another purpose: `logout+jwt`, `dpop+jwt`.
_TYPES = frozenset({"jwt", "jose", "at+jwt", "application/jwt", "application/at+jwt"})
_LISTED_IN_ONE = frozenset({"scope", "scp"})  # RFC 8693: names with spaces between
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LATEST_S = 253_402_300_800  # the year 10000


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """Who called: `subject`, as the issuer of this name (`Issuer.name`) knows him.

    `claims` are those that are strings or lists of strings, printable all; what is inside another has its path for a name, with
    dots (`realm_access.roles`). `scope` and `scp` are cut at spaces. The token is believed until `until_s` (Unix time).
    """

    issuer: str
    subject: str
    claims: Mapping[str, tuple[str, ...]]
    until_s: float


class TrustedIssuers(Protocol):
    """Whose tokens are believed, and their keys as far as they are here. Never waits."""

    def issuer_of(self, iss: str) -> Issuer | None:
        """The one with exactly this `iss`."""
        ...

    def keys_of(self, name: str) -> SigningKeys:
        """Those of the issuer of this name; empty where none are here yet."""
        ...

    def key_unknown(self, name: str) -> None:
        """A token names a key that is not among them: it may be a new one."""
        ...


def verify_token(token: str, issuers: TrustedIssuers, now_s: float) -> VerifiedToken:
    """Who sent this JWT, at `now_s` (Unix time). Raises BadCredential, and nothing else, whatever `token` is."""
    if len(token) > TOKEN_MOST_BYTES:
        raise BadCredential(CredentialFault.TOO_LARGE)
    if not _FORM.fullmatch(token):
        raise BadCredential(CredentialFault.MALFORMED)
    head, body, _ = token.split(".")
    header, claims = _part(head), _part(body)
    _check_header(header)
    issuer = issuers.issuer_of(_text(claims, "iss"))
    if issuer is None:
        raise BadCredential(CredentialFault.UNKNOWN_ISSUER)
    algorithm = _algorithm(header, issuer)
    key = _key(header, algorithm, issuer, issuers)
    if not _is_signed(token, key, algorithm):
        if "kid" not in header:  # by another key than the one that is here
            issuers.key_unknown(issuer.name)
        raise BadCredential(CredentialFault.BAD_SIGNATURE)
    until_s = _check_times(claims, issuer.leeway_s, now_s)
    if issuer.audience not in _audiences(claims):
        raise BadCredential(CredentialFault.WRONG_AUDIENCE)
    return VerifiedToken(issuer.name, _text(claims, "sub", SUBJECT_LONGEST), _strings_of(claims), until_s)


def _part(text: str) -> dict[str, Any]:
    """A part of the token, which is base64url without padding."""
    try:
        return object_of(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:  # base64's own is one
        raise BadCredential(CredentialFault.MALFORMED) from None


def _check_header(header: Mapping[str, Any]) -> None:
    if "crit" in header or "b64" in header:  # RFC 7515: what isn't understood is refused; nothing is understood here
        raise BadCredential(CredentialFault.CRITICAL_EXTENSION)
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str):
        raise BadCredential(CredentialFault.MALFORMED)
    if kind.lower() not in _TYPES:
        raise BadCredential(CredentialFault.WRONG_TYPE)


def _text(claims: Mapping[str, Any], name: str, longest: int = TOKEN_MOST_BYTES) -> str:
    if name not in claims:
        raise BadCredential(CredentialFault.LACKS_CLAIM)
    value = claims[name]
    if not isinstance(value, str) or not value or len(value) > longest or not value.isprintable():
        raise BadCredential(CredentialFault.MALFORMED)
    return value


def _algorithm(header: Mapping[str, Any], issuer: Issuer) -> SigningAlgorithm:
    named = header.get("alg")
    found = next((each for each in issuer.algorithms if each == named), None)
    if found is None:
        raise BadCredential(CredentialFault.WRONG_ALGORITHM)
    return found


def _key(header: Mapping[str, Any], algorithm: SigningAlgorithm, issuer: Issuer, issuers: TrustedIssuers) -> SigningKey:
    """The one that the token names; where it names none, the only one that fits."""
    keys = issuers.keys_of(issuer.name)
    if not keys:
        raise BadCredential(CredentialFault.NO_KEYS)
    if "kid" in header:
        kid = header["kid"]
        if not isinstance(kid, str):
            raise BadCredential(CredentialFault.MALFORMED)
        named = keys.get(kid, ())
    else:
        named = tuple(key for each in keys.values() for key in each)
    fitting = [key for key in named if algorithm in key.algorithms]
    if named and "kid" in header and not fitting:
        raise BadCredential(CredentialFault.WRONG_ALGORITHM)
    if not fitting:
        issuers.key_unknown(issuer.name)
        raise BadCredential(CredentialFault.UNKNOWN_KEY)
    if len(fitting) > 1:
        raise BadCredential(CredentialFault.AMBIGUOUS_KEY)
    return fitting[0]


@functools.cache
def _signatures() -> PyJWS:
    """PyJWT's, without its algorithms that need no key or a shared one."""
    from jwt import PyJWS

    return PyJWS(algorithms=[each.value for each in SigningAlgorithm])


def _is_signed(token: str, key: SigningKey, algorithm: SigningAlgorithm) -> bool:
    signatures = _signatures()
    from jwt import PyJWTError

    try:
        signatures.decode(token, key.key, algorithms=[algorithm.value])
    except PyJWTError:
        return False
    return True


def _check_times(claims: Mapping[str, Any], leeway_s: float, now_s: float) -> float:
    """Until when the token counts, leeway included."""
    until_s, issued_s = _time(claims, "exp") + leeway_s, _time(claims, "iat") - leeway_s
    from_s = _time(claims, "nbf") - leeway_s if "nbf" in claims else issued_s
    if now_s >= until_s:
        raise BadCredential(CredentialFault.EXPIRED)
    if now_s < max(issued_s, from_s):
        raise BadCredential(CredentialFault.NOT_YET_VALID)
    return until_s


def _time(claims: Mapping[str, Any], name: str) -> float:
    if name not in claims:
        raise BadCredential(CredentialFault.LACKS_CLAIM)
    value = claims[name]
    if type(value) not in (int, float) or not 0 <= value < _LATEST_S:
        raise BadCredential(CredentialFault.MALFORMED)
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    if "aud" not in claims:
        raise BadCredential(CredentialFault.LACKS_CLAIM)
    listed = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise BadCredential(CredentialFault.MALFORMED)
    return listed


def _strings_of(claims: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, values in _inside(claims, "", CLAIMS_DEEPEST):
        if name in found:  # `{"a.b": .., "a": {"b": ..}}`
            raise BadCredential(CredentialFault.MALFORMED)
        found[name] = values
    if len(found) > CLAIMS_MOST or sum(map(len, found.values())) > VALUES_MOST:
        raise BadCredential(CredentialFault.TOO_MANY_CLAIMS)
    return MappingProxyType(found)


def _inside(claims: Mapping[str, Any], path: str, deepest: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, value in claims.items():
        if isinstance(value, dict):
            if deepest > 1:
                yield from _inside(value, f"{path}{name}.", deepest - 1)
            continue
        listed = value if isinstance(value, list) else [value]
        if not name.isprintable() or not all(isinstance(each, str) and each.isprintable() for each in listed):
            continue
        if not path and name in _LISTED_IN_ONE and isinstance(value, str):
            listed = value.split()
        yield path + name, tuple(listed)
