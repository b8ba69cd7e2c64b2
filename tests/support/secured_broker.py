"""A real Kafka that also listens with TLS and SASL: it asks for the client's certificate, and for a user's password."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace.local import broker as local_broker
from headrace.local.ports import free_port
from tests.support.broker import jar_cache

USER = "reader"
LISTENER = "listener.name.sasl_ssl"
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


@dataclass(frozen=True)
class SecuredBroker:
    """Where it listens with TLS and SASL, and without; and the PEM files of its clients, of which `key_file` is encrypted."""

    address: str
    plain_address: str
    pid: int
    ca_file: Path
    cert_file: Path
    key_file: Path


@contextmanager
def secured_broker(folder: Path, password: str, key_password: str, *settings: str) -> Iterator[SecuredBroker]:
    """Runs one whose user `USER` has that password. Clients trust, and show, one self-signed certificate for loopback.

    `settings` are further lines of its properties; where one is there already, the last counts.
    """
    port, plain_port, home = free_port(), free_port(), folder / "broker"
    key, cert = folder / "key.pem", folder / "cert.pem"
    both = _write_certificate(key, cert, key_password)
    (folder / "broker.pem").write_bytes(both)
    more = (
        f"{LISTENER}.sasl.enabled.mechanisms=PLAIN",
        f'{LISTENER}.plain.sasl.jaas.config={LOGIN} user_{USER}="{password}";',
        f"{LISTENER}.ssl.client.auth=required",
        f"{LISTENER}.ssl.keystore.type=PEM",
        f"{LISTENER}.ssl.keystore.location={folder / 'broker.pem'}",
        f"{LISTENER}.ssl.truststore.type=PEM",
        f"{LISTENER}.ssl.truststore.location={cert}",
        "inter.broker.listener.name=PLAINTEXT",
        *settings,
    )
    properties = local_broker.PROPERTIES.replace(",CONTROLLER://{host}", f",SASL_SSL://{{host}}:{port},CONTROLLER://{{host}}")
    properties = properties.replace("{advertised_port}\n", f"{{advertised_port}},SASL_SSL://{{host}}:{port}\n")
    properties = properties.replace("map=PLAINTEXT:PLAINTEXT", "map=SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT")
    with mock.patch.object(local_broker, "PROPERTIES", properties + "\n".join(more) + "\n"):
        started = local_broker.start_broker(home, port=plain_port, cache=jar_cache())
    try:
        yield SecuredBroker(f"127.0.0.1:{port}", started.bootstrap, started.pid, cert, cert, key)
    finally:
        local_broker.stop_broker(home)


def _write_certificate(key_file: Path, cert_file: Path, key_password: str) -> bytes:
    """Writes the key, encrypted, and its certificate; returns both as the broker's keystore, with the key as it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(loopback, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    ).public_bytes(serialization.Encoding.PEM)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(key_password.encode())))
    cert_file.write_bytes(cert)
    return key.private_bytes(*form, serialization.NoEncryption()) + cert
