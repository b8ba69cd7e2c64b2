"""The files that a door speaks TLS with: read, checked, and put as HAProxy wants them. It starts and writes nothing."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import BadInput
from deployments.gateway.door.settings import DoorTls

if TYPE_CHECKING:  # it takes as long to import as all else here: who has no TLS does without
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ENDS_SOON = timedelta(days=14)
FILE_MOST_BYTES = 1 << 20
OTHERS_BITS = 0o077
GROUP_READS_BITS = 0o037
WRITE_PEM = "write it as PEM, with `-----BEGIN ...-----` lines"


@dataclass(frozen=True, slots=True)
class DoorCertificate:
    """A certificate, what leads to its authority, and its key: checked, and as one PEM. `ends` is when the certificate does."""

    pem: str
    ends: datetime

    def ends_soon(self, now: datetime | None = None) -> bool:
        """Whether it ought to be renewed by now."""
        return self.ends - (now or datetime.now(UTC)) < ENDS_SOON


def read_certificate(certificate: Path, key: Path, now: datetime | None = None) -> DoorCertificate:
    """Raises BadInput where a file can't be read, is no PEM, or others may read the key; where the two do not belong together;
    and where the certificate does not hold now."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    chain = _certificates(certificate)
    owned = _key(key)
    first = chain[0]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != owned.public_key().public_bytes(*form):
        raise BadInput(
            f"the first certificate of {certificate} is not of this key",
            where=str(key),
            remedy="give the key that it was made for; in the other file its own certificate comes first, then those that signed",
        )
    _check_time(first, certificate, now or datetime.now(UTC))
    pem = [one.public_bytes(Encoding.PEM) for one in chain]
    pem.append(owned.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return DoorCertificate(b"".join(pem).decode("ascii"), first.not_valid_after_utc)


def read_client_ca(path: Path, now: datetime | None = None) -> str:
    """The authorities of callers, as PEM. Raises BadInput where none of them is one that holds now."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    found = _certificates(path)
    for one in found:
        try:
            signs = one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            signs = True  # of the first version of X.509
        if not signs:
            raise BadInput(
                "a certificate in it may sign no others",
                where=str(path),
                remedy="give that of the authority which signs callers' certificates",
            )
    at = now or datetime.now(UTC)
    if not any(one.not_valid_before_utc <= at < one.not_valid_after_utc for one in found):
        _check_time(found[0], path, at)
    return b"".join(one.public_bytes(Encoding.PEM) for one in found).decode("ascii")


def check_files(tls: DoorTls) -> DoorCertificate:
    """Whether a door can be opened with these. Raises BadInput."""
    if tls.client_ca is not None:
        read_client_ca(Path(tls.client_ca))
    return read_certificate(Path(tls.certificate), Path(tls.key))


def first_certificate(path: Path) -> str:
    """The one that a server with this file shows as its own, as PEM. Raises BadInput."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return _certificates(path)[0].public_bytes(Encoding.PEM).decode("ascii")


def end_of(path: Path) -> datetime:
    """When that one ends. Raises BadInput."""
    return _certificates(path)[0].not_valid_after_utc


class CertificateEnd:
    """When the certificate in a file ends, looked up again whenever the file is another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._ends_s: float | None = None

    def ends_s(self) -> float | None:
        """In Unix time; as it was known last where the file can't be read now, which the door's keeper tells."""
        looks = looks_of(self._path)
        if looks != self._seen:
            with contextlib.suppress(BadInput):
                self._ends_s, self._seen = end_of(self._path).timestamp(), looks
        return self._ends_s


def looks_of(path: Path) -> object:
    """Changes with whatever is done to the file."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _certificates(path: Path) -> list[x509.Certificate]:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    text = _read(path)
    unreadable = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
    try:
        found = x509.load_pem_x509_certificates(text)
        for one in found:
            _parse(one)
    except unreadable as error:
        raise BadInput("there is no certificate in it that can be read", where=str(path), remedy=WRITE_PEM) from error
    return found


def _parse(certificate: x509.Certificate) -> None:
    """Reads what is only read when it is asked for."""
    certificate.public_key()
    _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _key(path: Path) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read(path, secret=True)
    try:
        return load_pem_private_key(text, password=None)
    except TypeError as error:  # so it says that there is a password
        raise BadInput(
            "the key is locked by a password, which nobody could type in when the door is started again",
            where=str(path),
            remedy="write it without, e.g. `openssl pkey -in KEY -out KEY2`, in a file that only you can read",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput("there is no private key in it that can be read", where=str(path), remedy=WRITE_PEM) from error


def is_open_to_others(mode: int, *, owner: int, us: int) -> bool:
    """Whether others than its owner may read a key's file, or more than that. Pure.

    One that root owns may be read by its group, as PostgreSQL has it too: so Kubernetes gives secrets to who is not root.
    """
    return bool(mode & (GROUP_READS_BITS if owner == 0 and us != 0 else OTHERS_BITS))


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            seen = os.fstat(file.fileno())
            if secret and is_open_to_others(mode := seen.st_mode & 0o777, owner=seen.st_uid, us=os.geteuid()):
                raise BadInput(f"others may read the key: its mode is {mode:04o}", where=str(path), remedy=f"`chmod 600 {path}`")
            text = file.read(FILE_MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(
            f"can't be read: {error.strerror}", where=str(path), remedy="give a file that is there, and yours to read"
        ) from error
    if len(text) > FILE_MOST_BYTES:
        raise BadInput(f"it has more than {FILE_MOST_BYTES} bytes", where=str(path), remedy=WRITE_PEM)
    return text


def _check_time(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends <= now:
        raise BadInput(f"the certificate ended at {utc(ends)}", where=str(path), remedy="renew it")
    if now < begins:
        raise BadInput(f"the certificate holds from {utc(begins)} on", where=str(path), remedy="look at this machine's clock")


def utc(time: datetime) -> str:
    """As it is told. Pure."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
