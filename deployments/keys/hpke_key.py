"""A key-encryption key of one's own: an X25519 key in PEM (as `openssl genpkey -algorithm X25519` makes one), in a file or a
variable. HPKE (RFC 9180) wraps with the public half, so that who seals need not be able to open."""

from __future__ import annotations

import hashlib
from typing import Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from cluster.errors import BadInput, Forbidden
from deployments.keys.port import WrapAlgorithm, WrappedKey

REMEDY = "name an X25519 key in PEM, as `headrace sealing new NAME` makes one"
_ID_DIGITS = 16


class HpkeKey:
    """Implements `KeyHolder`, in this process."""

    def __init__(self, public: X25519PublicKey, private: X25519PrivateKey | None, where: str) -> None:
        self._public = public
        self._private = private
        self._where = where
        self._suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

    @classmethod
    def of_pem(cls, pem: str, where: str) -> Self:
        """A private key, or the public half of one. Raises BadInput where it is neither."""
        private, public = None, None
        try:
            if "PRIVATE" in pem:
                private = load_pem_private_key(pem.encode(), password=None)
                public = private.public_key()
            else:
                public = load_pem_public_key(pem.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Not the library's own words: they may quote the key.
            raise BadInput("this is no key in PEM, or one with a passphrase", where=where, remedy=REMEDY) from None
        if not isinstance(public, X25519PublicKey):
            raise BadInput("this key is not of X25519", where=where, remedy=REMEDY)
        return cls(public, private if isinstance(private, X25519PrivateKey) else None, where)

    @property
    def key_id(self) -> str:
        """16 hex digits of the SHA-256 of the public half."""
        return hashlib.sha256(self._public.public_bytes_raw()).hexdigest()[:_ID_DIGITS]

    @property
    def where(self) -> str:
        """See `KeyHolder.where`."""
        return self._where

    @property
    def opens(self) -> bool:
        """Whether the private half is here."""
        return self._private is not None

    def wrap(self, data_key: bytes, info: bytes) -> WrappedKey:
        """See `KeyHolder.wrap`."""
        return WrappedKey(
            key=self.key_id, algorithm=WrapAlgorithm.HPKE, wrapped=self._suite.encrypt(data_key, self._public, info)
        )

    def unwrap(self, wrapped: WrappedKey, info: bytes) -> bytes:
        """See `KeyHolder.unwrap`."""
        if self._private is None:
            raise Forbidden("only the public half of the key is here: it seals, and opens nothing", where=self._where)
        if wrapped.algorithm is not WrapAlgorithm.HPKE:
            raise Forbidden(f"the wrap is of another kind, {wrapped.algorithm}", where=self._where)
        try:
            return self._suite.decrypt(wrapped.wrapped, self._private, info)
        except (InvalidTag, ValueError):
            raise Forbidden("this key does not open it, or its wrap was changed", where=self._where) from None


def new_hpke_pair() -> tuple[str, str]:
    """A new private key and its public half, in PEM."""
    private = X25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )
