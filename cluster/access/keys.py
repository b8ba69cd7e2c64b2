"""API keys: `hr_<id>_<secret><crc>`, known here by their digests alone. Pure, but for the chance in `new_key`.

Secret scanners find such a key by its beginning, and a mistyped one is told by its checksum before anybody looks it up. A secret
has 190 bits of chance, so a plain SHA-256 of it gives nothing away (after GitHub's format of 2021).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.access.callers import Grant

PREFIX = "hr_"
_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _CRC = 10, 32, 6
_KEY = re.compile(rf"hr_([0-9A-Za-z]{{{_ID}}})_([0-9A-Za-z]{{{_SECRET}}})([0-9A-Za-z]{{{_CRC}}})")
LIVE_MOST = 2  # of one name: an old one and the one that takes its place
_NOBODYS = hashlib.sha256(b"").hexdigest()  # what a key that nobody has is compared with, to take as long


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key as the controller and gateways remember it. Several of one `name` are the same caller.

    `digest` is the SHA-256 of its whole text, in hex. It ends at `expires_s`, in Unix time; None: never. A `home` key is one that
    `headrace up` has made for its user.
    """

    id: str
    name: str
    digest: str
    grants: tuple[Grant, ...]
    created_s: float
    expires_s: float | None = None
    by: str = ""
    home: bool = False

    @property
    def lasts_s(self) -> float | None:
        """From its making to its end; None: for ever."""
        return None if self.expires_s is None else self.expires_s - self.created_s

    def lives(self, now_s: float) -> bool:
        """Whether it may be used now."""
        return self.expires_s is None or now_s < self.expires_s


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made just now. `text` is the secret itself, to be shown once; it is in no representation of this."""

    id: str
    digest: str
    text: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r})"


def new_key() -> NewKey:
    """Draws one."""
    name, secret = (_drawn(length) for length in (_ID, _SECRET))
    text = f"{PREFIX}{name}_{secret}"
    text += _checksum(text)
    return NewKey(name, digest_of(text), text)


def key_id(text: str) -> str | None:
    """The id in a key's text; None where it is not one, or its checksum is wrong."""
    found = _KEY.fullmatch(text)
    if found is None or not hmac.compare_digest(_checksum(text[:-_CRC]), found[3]):
        return None
    return found[1]


def digest_of(text: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(text.encode()).hexdigest()


def find_key(keys: Mapping[str, StoredKey], text: str, now_s: float) -> StoredKey | None:
    """The stored key whose text this is; None where there is none, or it has ended. Takes as long for one as for the other."""
    key = keys.get(key_id(text) or "")
    same = hmac.compare_digest(digest_of(text), key.digest if key is not None else _NOBODYS)
    return key if same and key is not None and key.lives(now_s) else None


def live_of(keys: Iterable[StoredKey], name: str, now_s: float) -> list[StoredKey]:
    """Those of that name that may be used now, oldest first."""
    return sorted((key for key in keys if key.name == name and key.lives(now_s)), key=lambda key: key.created_s)


def _drawn(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _checksum(text: str) -> str:
    number, letters = zlib.crc32(text.encode()), []
    for _ in range(_CRC):
        number, digit = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[digit])
    return "".join(reversed(letters))
