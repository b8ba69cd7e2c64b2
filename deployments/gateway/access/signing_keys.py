"""What is usable of a JWKS (RFC 7517): public keys that verify signatures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cluster.access.issuers import SigningAlgorithm
from deployments.gateway.access.strict_json import object_of

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

KEYS_MOST = 100
RSA_LEAST_BITS, RSA_MOST_BITS = 2048, 8192
_LONGEST = 256  # of a `kid`
_RSA = frozenset(name for name in SigningAlgorithm if name.startswith(("RS", "PS")))
# By `kty` and `crv`: what such a key can verify, and the members that make it.
_KINDS: Mapping[tuple[str, str | None], tuple[frozenset[SigningAlgorithm], tuple[str, ...]]] = {
    ("RSA", None): (_RSA, ("n", "e")),
    ("EC", "P-256"): (frozenset({SigningAlgorithm.ES256}), ("x", "y")),
    ("EC", "P-384"): (frozenset({SigningAlgorithm.ES384}), ("x", "y")),
    ("EC", "P-521"): (frozenset({SigningAlgorithm.ES512}), ("x", "y")),
    ("OKP", "Ed25519"): (frozenset({SigningAlgorithm.EDDSA}), ("x",)),
}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key, and the algorithms that it may verify: those of its kind, or the one that its issuer made it for."""

    key: AllowedPublicKeys
    algorithms: frozenset[SigningAlgorithm]


SigningKeys = Mapping[str | None, tuple[SigningKey, ...]]
"""By `kid`; those without one are at None. Several may have the same, and differ in kind."""

NO_KEYS: SigningKeys = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ParsedKeys:
    """What is usable of a JWKS, and of each key that is not, its `kid` and why."""

    keys: SigningKeys
    left_out: tuple[str, ...]


def parse_keys(data: bytes) -> ParsedKeys:
    """Of a JWKS. Raises ValueError, whose text is fit for a log, where it is none or has nothing usable."""
    try:
        listed = object_of(data).get("keys")
    except ValueError as error:
        raise ValueError(f"what came is no JWKS: {error}") from None
    if not isinstance(listed, list):
        raise ValueError("what came is no JWKS: it has no list `keys`")
    if len(listed) > KEYS_MOST:
        raise ValueError(f"the JWKS has {len(listed)} keys; at most {KEYS_MOST} are taken")
    found: defaultdict[str | None, list[SigningKey]] = defaultdict(list)
    left_out = []
    for number, each in enumerate(listed):
        kid = each.get("kid") if isinstance(each, dict) else None
        try:
            key = _signing_key(each, kid)
        except ValueError as error:
            left_out.append(f"{repr(kid)[:_LONGEST] if isinstance(kid, str) else f'number {number}'}: {error}")
        else:
            found[kid].append(key)
    if not found:
        raise ValueError("the JWKS has no usable key" + (f" ({'; '.join(left_out)})" if left_out else ""))
    return ParsedKeys(MappingProxyType({kid: tuple(keys) for kid, keys in found.items()}), tuple(left_out))


def _signing_key(jwk: object, kid: object) -> SigningKey:
    """Raises ValueError where it is not usable. Its text has nothing of the key in it."""
    if not isinstance(jwk, dict):
        raise ValueError("no JSON object")
    if not (kid is None or (isinstance(kid, str) and len(kid) <= _LONGEST)):
        raise ValueError("its `kid` is no string, or too long")
    if jwk.get("kty") == "oct":
        raise ValueError("a shared secret, which has no place in a JWKS that others can read")
    if "d" in jwk:
        raise ValueError("a private key: whoever can read the JWKS can sign with it")
    if jwk.get("use", "sig") != "sig" or "verify" not in _strings(jwk.get("key_ops", ["verify"])):
        raise ValueError("not for signatures")
    kty, crv = _text(jwk.get("kty")), None if jwk.get("kty") == "RSA" else _text(jwk.get("crv"))
    if (kty, crv) not in _KINDS:
        raise ValueError("of a `kty` and `crv` that no algorithm is known for")
    fits, members = _KINDS[kty, crv]
    if "alg" in jwk:
        fits = frozenset(name for name in fits if name == jwk["alg"])
    if not fits:
        raise ValueError("its `alg` is unknown, or not one for its kind of key")
    return SigningKey(_public_key(kty, crv, {member: jwk.get(member) for member in members}, min(fits)), fits)


def _public_key(kty: str, crv: str | None, members: Mapping[str, object], algorithm: SigningAlgorithm) -> AllowedPublicKeys:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    if not all(isinstance(value, str) and value.isascii() for value in members.values()):
        raise ValueError("a part of it is missing, or no base64url")
    if any(len(str(value)) > RSA_MOST_BITS // 4 for value in members.values()):  # which a library may compute with for minutes
        raise ValueError("a part of it is too long")
    try:
        # Only the members checked above: nothing else of what came reaches the library.
        key: Any = jwt.PyJWK({"kty": kty, "crv": crv, **members}, algorithm).key
    except (jwt.PyJWTError, ValueError, UnsupportedAlgorithm):  # their texts may hold the key
        raise ValueError("not a point or number that makes a key") from None
    if kty == "RSA" and not RSA_LEAST_BITS <= key.key_size <= RSA_MOST_BITS:
        raise ValueError(f"of {key.key_size} bits; RSA keys have {RSA_LEAST_BITS} to {RSA_MOST_BITS}")
    found: AllowedPublicKeys = key
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: object) -> frozenset[str]:
    return frozenset(each for each in value if isinstance(each, str)) if isinstance(value, list) else frozenset()
