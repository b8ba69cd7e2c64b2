"""The key that signs the audit of one home: a file that only its user may read."""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cluster.audit.checkpoint import AuditSigner, key_hash
from cluster.errors import Conflict
from deployments.keys.secret_file import read_secret, write_once

WHAT = "the key that signs the audit"
REMEDY = "bring the file back from a copy; without it a new key must be made (remove the file), and told to whoever verifies"


def audit_signer(file: Path) -> AuditSigner:
    """Makes the key where there is none. Raises Conflict where the file is not this user's alone, or holds no key."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_once(file, base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode())
    text = read_secret(file, what=WHAT, remedy=REMEDY)
    try:
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        raise Conflict("this is no key of an audit", where=str(file), remedy=REMEDY) from None
    public = private.public_key().public_bytes_raw()
    return AuditSigner(f"headrace.{key_hash('headrace', public).hex()}", public, private.sign)


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of that Ed25519 key has signed it."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
