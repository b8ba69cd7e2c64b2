"""Whom a client certificate names. The door has verified its chain, and that the caller has the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.gateway.access.bad_credential import BadCredential, CredentialFault

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CERTIFICATE_MOST_BYTES = 64 << 10
NAMES_MOST = 100
NAME_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """`names` are the certificate's URIs (as SPIFFE's), DNS names and e-mail addresses; the common name of one that has
    no alternative names. It counts until `until_s` (Unix time)."""

    names: frozenset[str]
    until_s: float


def names_of(der: bytes, now_s: float) -> CertificateNames:
    """Of an X.509 certificate, at `now_s` (Unix time). Raises BadCredential where it is none, not valid now, or names nobody."""
    from cryptography.x509 import ExtensionNotFound, InvalidVersion, load_der_x509_certificate
    from cryptography.x509.extensions import DuplicateExtension
    from cryptography.x509.general_name import UnsupportedGeneralNameType

    if len(der) > CERTIFICATE_MOST_BYTES:
        raise BadCredential(CredentialFault.TOO_LARGE)
    try:
        certificate = load_der_x509_certificate(der)
        from_s, until_s = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        try:
            names = _alternative(certificate)
        except ExtensionNotFound:
            names = _common(certificate)
    except (ValueError, InvalidVersion, DuplicateExtension, UnsupportedGeneralNameType):
        raise BadCredential(CredentialFault.MALFORMED) from None
    if now_s >= until_s:
        raise BadCredential(CredentialFault.EXPIRED)
    if now_s < from_s:
        raise BadCredential(CredentialFault.NOT_YET_VALID)
    if not names:
        raise BadCredential(CredentialFault.NO_NAME)
    # One odd name makes all of it odd: a NUL in a name once meant another one to whoever signed it.
    if len(names) > NAMES_MOST or not all(name and len(name) <= NAME_LONGEST and name.isprintable() for name in names):
        raise BadCredential(CredentialFault.MALFORMED)
    return CertificateNames(names, until_s)


def _alternative(certificate: Certificate) -> frozenset[str]:
    from cryptography.x509 import DNSName, RFC822Name, SubjectAlternativeName, UniformResourceIdentifier

    found = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    return frozenset(
        [
            *found.get_values_for_type(UniformResourceIdentifier),
            *found.get_values_for_type(RFC822Name),
            *(name.lower() for name in found.get_values_for_type(DNSName)),
        ]
    )


def _common(certificate: Certificate) -> frozenset[str]:
    from cryptography.x509.oid import NameOID

    found = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(found) > 1:
        raise ValueError("which of its common names was vouched for can't be told")
    return frozenset(each if isinstance(each, str) else "" for each in found)
