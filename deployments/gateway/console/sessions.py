"""A browser's session: what takes the place of a key in its cookie. Pure, but for the chance in a token's nonce.

A token names a key and when it ends, signed with what only gateways and the controller know: the stored digest of that key and a
secret that all of a cluster's processes share. So every gateway takes it, none keeps it, and it ends with its key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.access.keys import StoredKey

SESSION_S = 12 * 3600.0
CODE_S = 600.0
_LONGEST = 200


class TokenPurpose(StrEnum):
    """What a token is good for: one made for one thing is no good for another."""

    SESSION = "session"
    """Stands in the cookie."""
    CODE = "code"
    """Stands in a link, and becomes a session once."""


@dataclass(frozen=True, slots=True)
class SessionToken:
    """One that was signed here. `until_s` is in Unix time."""

    key_id: str
    until_s: float
    nonce: str


def lasting_s(key: StoredKey, purpose: TokenPurpose, now_s: float) -> float:
    """When a token of that key that is made now ends (Unix): with the key at the latest."""
    until_s = now_s + (SESSION_S if purpose is TokenPurpose.SESSION else CODE_S)
    return until_s if key.expires_s is None else min(until_s, key.expires_s)


def sign(key: StoredKey, purpose: TokenPurpose, secret: bytes, now_s: float) -> str:
    """A token for who has that key."""
    told = f"{purpose}.{key.id}.{int(lasting_s(key, purpose, now_s))}.{secrets.token_hex(12)}"
    return f"{told}.{_mac(told, key, secret)}"


def verify(text: str, purpose: TokenPurpose, keys: Mapping[str, StoredKey], secret: bytes, now_s: float) -> SessionToken | None:
    """What the token says; None where it was not signed so, is for another purpose, or it or its key has ended."""
    parts = text.split(".")
    if len(text) > _LONGEST or not text.isascii() or len(parts) != 5 or parts[0] != purpose or not parts[2].isdecimal():
        return None
    key = keys.get(parts[1])
    if key is None or not hmac.compare_digest(_mac(text.rpartition(".")[0], key, secret), parts[4]):
        return None
    until_s = float(parts[2])
    return SessionToken(key.id, until_s, parts[3]) if now_s < until_s and key.lives(now_s) else None


def _mac(told: str, key: StoredKey, secret: bytes) -> str:
    own = hmac.digest(secret or b"headrace", f"console {key.digest}".encode(), hashlib.sha256)
    return hmac.new(own, told.encode(), hashlib.sha256).hexdigest()
