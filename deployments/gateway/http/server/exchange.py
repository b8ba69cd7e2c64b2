"""What answers one kind of request, HTTP's or gRPC's: made from a head, and used again for every request with the same head.

The head is without what its caller is known by, which comes with each request.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cluster.access.callers import Caller
from cluster.errors import HeadraceError
from deployments.gateway.access.credential import Credential
from deployments.gateway.admission import Lease
from deployments.gateway.http.server.body import Pieces
from deployments.gateway.http.server.head import RequestHead
from deployments.observe.traces.traceparent import CallerTrace


class WireAnswer(NamedTuple):
    """As it goes over the wire: a head without the empty line that ends it, and what follows."""

    head: bytes
    pieces: tuple[bytes, ...]


class Exchange(Protocol):
    """How a request with a certain head is answered."""

    def admit(self, credential: Credential) -> Caller:
        """Who brings it. Raises HeadraceError where he gets no further."""

    def refusal(self, body_bytes: int) -> WireAnswer | None:
        """What a request is told at once whose body has at least so many bytes; None where it is taken."""

    def failed(self, error: HeadraceError) -> WireAnswer:
        """What a request is told that ended so before it was whole, or for which there is no room."""

    async def answer(self, body: Pieces, lease: Lease, caller: Caller, trace: CallerTrace) -> WireAnswer:
        """The answer to that caller's whole request, which may empty `body` and hold more by `lease`, and brought this trace
        context, or none. Never raises but where it is cancelled."""


class Exchanges(Protocol):
    """Which there are."""

    def broken(self, error: HeadraceError) -> WireAnswer:
        """What is told to what is no HTTP request."""

    def of(self, head: RequestHead) -> Exchange:
        """The one for such a head. Never raises."""
