"""The files of TLS: which hold, and what is said of those that do not."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from cluster.errors import BadInput
from deployments.gateway.door.certificates import (
    ENDS_SOON,
    CertificateEnd,
    check_files,
    end_of,
    first_certificate,
    is_open_to_others,
    read_certificate,
    read_client_ca,
)
from deployments.gateway.door.settings import DoorTls
from tests.support.certificates import Pki

NOW = datetime(2026, 6, 1, tzinfo=UTC)
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def pki(authority: Pki, tmp_path: Path) -> Pki:
    return Pki(tmp_path, authority.authority)


def test_a_pair_becomes_one_file_without_what_others_write_around_it(pki: Pki) -> None:
    certificate, key = pki.issue("door", ends=NOW + timedelta(days=90), begins=NOW - timedelta(days=1))
    certificate.write_text(f"Bag Attributes\n  a: b\n\n{certificate.read_text()}\n\n{pki.ca.read_text()}\n")
    read = read_certificate(certificate, key, NOW)
    assert read.pem.count("-----BEGIN CERTIFICATE-----") == 2
    assert read.pem.count("-----BEGIN PRIVATE KEY-----") == 1
    assert "Bag" not in read.pem
    assert all(read.pem.splitlines())  # an empty line ends what HAProxy takes
    assert (read.ends, read.ends_soon(NOW)) == (NOW + timedelta(days=90), False)
    assert read.ends_soon(read.ends - ENDS_SOON + timedelta(seconds=1))
    assert first_certificate(certificate).strip() in read.pem
    assert end_of(certificate) == read.ends
    watched = CertificateEnd(certificate)
    assert watched.ends_s() == read.ends.timestamp()
    certificate.write_text("half of a renewed one")
    assert watched.ends_s() == read.ends.timestamp()  # as it was known last
    assert CertificateEnd(certificate).ends_s() is None


def gone(files: Files) -> None:
    files[0].unlink()


def other_key(files: Files) -> None:
    files[1].write_bytes(Pki(files[1].parent).issue("other")[1].read_bytes())


def locked(files: Files) -> None:
    key = load_pem_private_key(files[1].read_bytes(), None)
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))


def der(files: Files) -> None:
    files[0].write_bytes(x509.load_pem_x509_certificate(files[0].read_bytes()).public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (gone, r"door\.pem: can't be read: No such file"),
        (lambda files: (files[0].unlink(), files[0].mkdir()), r"door\.pem: can't be read: Is a directory"),
        (lambda files: files[0].write_text(""), r"door\.pem: there is no certificate in it"),
        (lambda files: files[0].write_bytes(files[0].read_bytes()[:300]), r"door\.pem: there is no certificate in it"),
        (lambda files: files[0].write_bytes(bytes(2 << 20)), r"door\.pem: it has more than 1048576 bytes"),
        (der, r"door\.pem: there is no certificate in it"),
        (lambda files: files[1].write_text("-----BEGIN PRIVATE KEY-----\n"), r"door\.key: there is no private key in it"),
        (locked, r"door\.key: the key is locked by a password"),
        (other_key, r"door\.key: the first certificate of .*door\.pem is not of this key"),
        (lambda files: files[1].chmod(0o604), r"door\.key: others may read the key: its mode is 0604 \(`chmod 600 .*door.key`\)"),
        (lambda files: files[1].chmod(0o660), r"door\.key: others may read the key: its mode is 0660"),
    ],
)
def test_each_thing_that_does_not_hold_is_told_by_file(pki: Pki, spoil: Callable[[Files], object], why: str) -> None:
    files = pki.issue("door")
    secret = files[1].read_text().splitlines()[2]
    spoil(files)
    with pytest.raises(BadInput, match=why) as refused:
        read_certificate(*files)
    assert refused.value.remedy
    assert secret not in str(refused.value)


def test_a_certificate_holds_for_its_time(pki: Pki) -> None:
    files = pki.issue("door", begins=NOW, ends=NOW + timedelta(days=1))
    for seconds, why in ((-1, "holds from 2026-06-01T00:00:00Z on"), (86_400, "ended at 2026-06-02T00:00:00Z")):
        with pytest.raises(BadInput, match=why):
            read_certificate(*files, NOW + timedelta(seconds=seconds))
    for seconds in (0, 86_399):
        read_certificate(*files, NOW + timedelta(seconds=seconds))


def test_callers_authorities_are_ones_that_sign(pki: Pki) -> None:
    assert read_client_ca(pki.ca).count("BEGIN CERTIFICATE") == 1
    certificate, key = pki.issue("door")
    with pytest.raises(BadInput, match="may sign no others"):
        check_files(DoorTls(str(certificate), str(key), str(certificate)))
    with pytest.raises(BadInput, match="ended at"):
        read_client_ca(pki.ca, datetime(3001, 1, 1, tzinfo=UTC))
    check_files(DoorTls(str(certificate), str(key), str(pki.ca)))


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_files_with_a_wrong_bit_are_never_more_than_refused(pki: Pki) -> None:
    """Each third bit of both, in turn."""
    files = pki.issue("door")
    for path, kind in zip(files, ("CERTIFICATE", "PRIVATE KEY"), strict=True):
        good = path.read_bytes()
        der = base64.b64decode(good.partition(b"-----\n")[2].partition(b"-----END")[0])
        refused = 0
        for at in range(0, 8 * len(der), 3):
            wrong = bytearray(der)
            wrong[at // 8] ^= 1 << at % 8
            path.write_text(f"-----BEGIN {kind}-----\n{base64.encodebytes(wrong).decode()}-----END {kind}-----\n")
            try:
                assert read_certificate(*files).pem.endswith("-----END PRIVATE KEY-----\n")
            except BadInput:
                refused += 1
        assert refused > len(der) // 2
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("mode", "owner", "us", "told"),
    [
        (0o600, 10001, 10001, False),
        (0o640, 10001, 10001, True),
        (0o440, 0, 10001, False),  # a Secret that Kubernetes mounts, with its group
        (0o460, 0, 10001, True),
        (0o444, 0, 10001, True),
        (0o440, 0, 0, True),
        (0o440, 7, 10001, True),
    ],
)
def test_whose_key_it_is_decides_who_may_read_it(mode: int, owner: int, us: int, told: bool) -> None:
    assert is_open_to_others(mode, owner=owner, us=us) is told
