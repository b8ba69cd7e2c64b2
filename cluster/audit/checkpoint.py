"""What is signed of the audit: a checkpoint (C2SP tlog-checkpoint) in a signed note (C2SP signed-note). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.audit.merkle import TreeHead
from cluster.errors import BadInput

Sign = Callable[[bytes], bytes]
"""An Ed25519 signature of a message."""
Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether, by that public key, a signature is one of the message."""


@dataclass(frozen=True, slots=True)
class AuditSigner:
    """The key that signs an audit: its name, its public half (32 bytes), and what signs with it."""

    name: str
    public: bytes
    sign: Sign


ED25519 = b"\x01"
OTHER_KEY = "it was changed, or another key signed it: give that one too, in a line of its own, if you trust it; keep both files"
_LINE = "\u2014 "  # an em dash, as the form has it


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log of that origin had so many records, and that root, when it was signed."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def key_hash(name: str, public: bytes) -> bytes:
    """The 4 bytes by which a signature names its key."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def verifier_key(name: str, public: bytes) -> str:
    """The public key in a line: NAME+HASH+BASE64."""
    return f"{name}+{key_hash(name, public).hex()}+{base64.b64encode(ED25519 + public).decode()}"


def read_verifier_key(text: str) -> tuple[str, bytes]:
    """The name and the 32 bytes of a public key. Raises BadInput."""
    try:
        name, told, key = text.strip().split("+", 2)
        raw = base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        name, told, raw = "", "", b""
    if len(raw) != 33 or raw[:1] != ED25519 or key_hash(name, raw[1:]).hex() != told:
        raise BadInput("this is no public key of an audit", where="key", remedy="give what `headrace audit key` prints")
    return name, raw[1:]


def read_verifier_keys(text: str) -> tuple[tuple[str, bytes], ...]:
    """All keys in a text, one a line. Raises BadInput where a line is none, or there is no line."""
    return tuple(read_verifier_key(line) for line in text.splitlines() if line.strip()) or (read_verifier_key(text),)


def signed(head: TreeHead, by: AuditSigner) -> str:
    """The whole note. The key's name is the log's origin as well."""
    text = Checkpoint(by.name, head.size, head.root).text
    signature = base64.b64encode(key_hash(by.name, by.public) + by.sign(text.encode())).decode()
    return f"{text}\n{_LINE}{by.name} {signature}\n"


def opened(note: str, keys: Iterable[tuple[str, bytes]], verify: Verify, where: str) -> Checkpoint:
    """The checkpoint in a note that one of the keys has signed, each a name and 32 bytes. Raises BadInput where none has."""
    text, _, signatures = note.partition("\n\n")
    text += "\n"
    wanted = {(name, key_hash(name, public)): public for name, public in keys}
    for line in signatures.splitlines():
        try:
            whose, encoded = line.removeprefix(_LINE).split(" ")
            raw = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            continue
        public = wanted.get((whose, raw[:4]))
        if public is not None and verify(public, raw[4:], text.encode()):
            return _read(text, where)
    raise BadInput("it is not signed by that key", where=where, remedy=OTHER_KEY)


def _read(text: str, where: str) -> Checkpoint:
    try:
        origin, size, root = text.splitlines()[:3]
        return Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
    except (ValueError, binascii.Error):
        raise BadInput("it is no checkpoint", where=where, remedy="take the file away") from None
