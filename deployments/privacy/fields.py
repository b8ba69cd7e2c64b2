"""One encrypted field of a record: `enc:1:KEYS/PSEUDONYM:BASE64`, AES-256-GCM under the subject's key. Pure, but that it draws.

Topic, field and key id are associated data: a value that is moved to another topic, field or subject does not open.
"""

from __future__ import annotations

import base64
import re
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cluster.errors import BadInput

PREFIX = "enc:1:"
_NONCE_BYTES = 12
_OWNED = re.compile(r"enc:1:([a-z0-9-]{1,63})/([0-9a-f]{32}):")  # of what follows, the decoder tells in a tenth of the time


def seal_field(value: bytes, key: bytes, *, keys: str, pseudonym: str, topic: str, field: str) -> str:
    """The value, under a subject's key; `keys` names the subject keys that this is one of."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + AESGCM(key).encrypt(nonce, value, _about(topic, field, f"{keys}/{pseudonym}"))
    return f"{PREFIX}{keys}/{pseudonym}:{base64.b64encode(sealed).decode()}"


def owner_of(text: object) -> tuple[str, str] | None:
    """Which subject keys, and whose pseudonym, an encrypted field names; None where it is none."""
    found = _OWNED.match(text) if isinstance(text, str) else None
    return (found[1], found[2]) if found is not None else None


def open_field(text: str, key: bytes, *, topic: str, field: str) -> bytes:
    """The value. Raises BadInput where it was not sealed so: changed, or moved here from elsewhere."""
    found = _OWNED.match(text)
    try:
        sealed = base64.b64decode(text[found.end() :], validate=True) if found is not None else b""
        if found is not None and len(sealed) > _NONCE_BYTES:
            about = _about(topic, field, f"{found[1]}/{found[2]}")
            return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
    except (InvalidTag, ValueError):  # binascii's, and of characters that are not ASCII
        pass  # told below, as what is no such value at all
    what, remedy = "it does not open: it was changed, or is of another topic, field or cluster", "send it as it was encrypted"
    raise BadInput(what, where=field, remedy=remedy)


def _about(topic: str, field: str, key_id: str) -> bytes:
    parts = (part.encode() for part in ("headrace field", topic, field, key_id))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
