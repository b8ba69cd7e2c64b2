"""What a caller brings to be known by: an Authorization header, and a client certificate that the door has verified."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cluster.access.keys import PREFIX
from cluster.errors import BadInput

AUTHORIZATION = b"authorization"
# Set by the door alone, which takes it from callers: the certificate's DER in base64.
PEER = b"x-headrace-peer"
FORWARDED_FOR = b"x-forwarded-for"
_CRLF = b"\r\n"


class Credential(NamedTuple):
    """The values of both headers, as they came; empty where there is none."""

    authorization: bytes = b""
    certificate: bytes = b""


NOTHING = Credential()


def in_headers(headers: Mapping[bytes, bytes], *, behind_door: bool) -> Credential:
    """Of a request with such headers, by lower-case name. Without a door, anybody could say that he has a certificate."""
    return Credential(headers.get(AUTHORIZATION, b""), headers.get(PEER, b"") if behind_door else b"")


def address_in(headers: Mapping[bytes, bytes], *, behind_door: bool) -> bytes:
    """Where a request with such headers comes from, as the door says; without one nobody says it."""
    return headers.get(FORWARDED_FOR, b"") if behind_door else b""


def in_metadata(metadata: Iterable[tuple[str, Any]] | None, *, behind_door: bool) -> tuple[Credential, bytes]:
    """Of a gRPC call, and the address that it comes from."""
    told = {name.encode(): value.encode() if isinstance(value, str) else bytes(value) for name, value in metadata or ()}
    return in_headers(told, behind_door=behind_door), address_in(told, behind_door=behind_door)


def cut(head: bytes) -> tuple[bytes, Credential]:
    """The head of a request without what its caller is known by, and that: heads are remembered, and secrets are not to be.

    Names are in lower case, as the door writes them. Raises BadInput where one of them stands there twice.
    """
    head, authorization = _cut(head, b"\r\nauthorization:")
    head, certificate = _cut(head, b"\r\nx-headrace-peer:")
    return head, Credential(authorization, certificate) if authorization or certificate else NOTHING


def _cut(head: bytes, begins: bytes) -> tuple[bytes, bytes]:
    at = head.find(begins)
    if at < 0:
        return head, b""
    end = head.find(_CRLF, at + len(_CRLF))
    rest = head[:at] + head[end:]
    if rest.find(begins, at) >= 0:
        raise BadInput("it stands there twice", where=begins[len(_CRLF) : -1].decode(), remedy="send it once")
    return rest, head[at + len(begins) : end].strip()


def secret_of(authorization: bytes) -> str | None:
    """The key or token in such a header: `Bearer SECRET`, or `Basic` of `id:secret` or `anything:key`, as tritonclient's plugin
    sends it. None for what is neither."""
    scheme, _, value = authorization.partition(b" ")
    try:
        match scheme.lower():
            case b"bearer":
                return value.strip().decode("ascii")
            case b"basic":
                user, colon, password = base64.b64decode(value.strip(), validate=True).decode("ascii").partition(":")
                if not colon:
                    return None
                return password if password.startswith(PREFIX) else f"{PREFIX}{user}_{password}"
    except (UnicodeDecodeError, binascii.Error):
        pass
    return None
