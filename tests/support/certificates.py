"""Certificates of an authority of the test's own, in files as an operator would have them."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import trustme

NAMES = ("localhost", "127.0.0.1")
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass
class Pki:
    """One authority, and files in `folder`."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return path

    def issue(self, name: str, *names: str, ends: datetime | None = None, begins: datetime | None = None) -> tuple[Path, Path]:
        """Certificate and key for `names`, in NAME.pem and NAME.key, where a renewal puts them anew."""
        made = self.authority.issue_cert(*(names or NAMES), not_after=ends, not_before=begins)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        replace(certificate, b"".join(blob.bytes() for blob in made.cert_chain_pems))
        replace(key, made.private_key_pem.bytes())
        return certificate, key

    def expired(self, name: str) -> tuple[Path, Path]:
        """One that has ended."""
        return self.issue(name, begins=LONG_AGO, ends=LONG_AGO + timedelta(days=1))

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """A client's that trusts the authority, with a certificate of its own where it has one."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if client is not None:
            context.load_cert_chain(*client)
        return context

    def grpc(self, client: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        chain, key = (None, None) if client is None else (client[0].read_bytes(), client[1].read_bytes())
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain)


def replace(path: Path, content: bytes) -> None:
    """Replaces a file in one step; only this user can read it."""
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)
