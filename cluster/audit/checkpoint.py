"""What is signed of the audit: a checkpoint (C2SP tlog-checkpoint) in a signed note (C2SP signed-note). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cluster.audit.merkle import TreeHead
from cluster.errors import BadInput

Sign = Callable[[bytes], bytes]
"""An Ed25519 signature of a message."""
Verify = Callable[[bytes, bytes], bool]
"""Whether a signature is one of the message."""


@dataclass(frozen=True, slots=True)
class AuditSigner:
    """The key that signs an audit: its name, its public half (32 bytes), and what signs with it."""

    name: str
    public: bytes
    sign: Sign


ED25519 = b"\x01"
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


def signed(head: TreeHead, by: AuditSigner) -> str:
    """The whole note. The key's name is the log's origin as well."""
    text = Checkpoint(by.name, head.size, head.root).text
    signature = base64.b64encode(key_hash(by.name, by.public) + by.sign(text.encode())).decode()
    return f"{text}\n{_LINE}{by.name} {signature}\n"


def opened(note: str, name: str, public: bytes, verify: Verify, where: str) -> Checkpoint:
    """The checkpoint in a note that the key has signed. Raises BadInput where it has not."""
    text, _, signatures = note.partition("\n\n")
    text += "\n"
    wanted = key_hash(name, public)
    for line in signatures.splitlines():
        try:
            whose, encoded = line.removeprefix(_LINE).split(" ")
            raw = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            continue
        if whose == name and raw[:4] == wanted and verify(raw[4:], text.encode()):
            return _read(text, where)
    raise BadInput("it is not signed by that key", where=where, remedy="it was changed, or is of another service: keep both")


def _read(text: str, where: str) -> Checkpoint:
    try:
        origin, size, root = text.splitlines()[:3]
        return Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
    except (ValueError, binascii.Error):
        raise BadInput("it is no checkpoint", where=where, remedy="take the file away") from None
