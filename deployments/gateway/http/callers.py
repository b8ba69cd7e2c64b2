"""Keeps out pages of other sites, which a browser would let change something here."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from cluster.errors import BadInput

ANYWHERE = "0.0.0.0"  # noqa: S104 (compared, not bound)


class ForeignCaller(BadInput):
    """A page of another site is behind the request, or may be."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Which names this gateway goes by, in lower case. Any IP address and `localhost` are its own: no site can take those."""

    names: frozenset[str]

    @classmethod
    def to(cls, *names: str) -> Self:
        """Those that reach us by these names, or by this machine's."""
        own: Iterable[str] = (socket.gethostname(), socket.getfqdn(), *names)
        return cls(frozenset(name.lower().rstrip(".") for name in own if name and name != ANYWHERE))

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuses what would change something. Raises ForeignCaller.

        A browser names the page's site in Origin, and in Host the name under which it found us: a site that lets its own name
        lead here (DNS rebinding) gives both alike.
        """
        host = headers.get(b"host", b"").decode("latin-1").strip().lower()
        if host and not self._is_own(_name(host)):
            raise ForeignCaller(
                f"{host[:80]!r} is no name of this gateway",
                where="Host",
                remedy=f"call it by its address, or make the name known: headrace up --allow-host {_name(host)[:80]}",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").strip().lower().partition("://")[2] != host:
            raise ForeignCaller(
                f"a page of {origin.decode('latin-1')[:80]!r} may not do this",
                where="Origin",
                remedy="open the gateway's own page, or use `headrace` or another client that is no browser",
            )

    def _is_own(self, name: str) -> bool:
        if name in self.names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(authority: str) -> str:
    """`host:port` without the port; an IPv6 address without its brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].rstrip(".")
