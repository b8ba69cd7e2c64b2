"""An issuer of tokens for tests: real keys, real signatures, and a real HTTP server that publishes the keys."""

from __future__ import annotations

import base64
import functools
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NOW_S = 1_800_000_000.0
CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
CLAIMS: Mapping[str, Any] = {"iss": "https://id.example", "aud": "headrace", "sub": "ann", "iat": NOW_S - 10, "exp": NOW_S + 300}


@functools.cache
def private_key(algorithm: str, number: int = 0) -> Any:
    """Made once a run, for RSA's take long. Another `number` is another key."""
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else rsa_key(2048, number)


@functools.cache
def rsa_key(bits: int, number: int = 0) -> Any:
    """As above."""
    return rsa.generate_private_key(65537, bits)


def jwk(algorithm: str, kid: str | None = None, number: int = 0, **more: Any) -> dict[str, Any]:
    """The public key, as a JWKS lists it."""
    told = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(algorithm, number).public_key(), as_dict=True)
    told.pop("key_ops", None)
    return {**told, **({} if kid is None else {"kid": kid}), **more}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    """The body of a JWKS."""
    return json.dumps({"keys": keys}).encode()


def part(value: Any) -> str:
    """One part of a token: bytes as they are, all else as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Any, claims: Any, algorithm: str = "ES256", number: int = 0) -> str:
    """A token of these parts, with a signature that is right for them, whatever they say."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(jwt.get_algorithm_by_name(algorithm).sign(text.encode(), private_key(algorithm, number)))}"


def certificate(key: Any, common: Sequence[str], alternative: Sequence[x509.GeneralName] | None, now_s: float) -> bytes:
    """Signed by itself, as DER; of the day before `now_s` and the day after."""
    now = datetime.fromtimestamp(now_s, UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(7).public_key(key.public_key())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    if alternative is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def tls_files(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that no authority has signed, and its key, as PEM."""
    key = private_key("ES256")
    der = certificate(key, ["id"], [x509.IPAddress(ip_address("127.0.0.1"))], time.time())
    (folder / "cert.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


@dataclass
class KeyServer:
    """Publishes bodies by path. `asked` are the paths so far; `away` hangs up on whoever asks; a body waits for `goes_on`."""

    url: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    away: bool = False
    asked: list[str] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)


@contextmanager
def key_server(tls: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    """On loopback, on a free port."""
    state = KeyServer()
    state.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.away:
                self.close_connection = True
                return
            body = state.bodies.get(self.path)
            self.send_response(404 if body is None else state.status)
            for name, value in {"content-length": str(len(body or b"")), **state.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            state.goes_on.wait()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            """A test's output is no place for it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.goes_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
