"""What one gateway has taken and not answered yet, HTTP and gRPC together: requests and bytes, both bounded."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from cluster.errors import NoCapacity

_FULL = NoCapacity("too many requests are under way", where="gateway", remedy="retry later, or add gateways")


class Admission:
    """Used on one event loop. `ending` is set when the gateway begins to stop."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0
        self.ending = asyncio.Event()
        self._none: asyncio.Event | None = None

    def enter(self) -> None:
        """Takes a request. Raises NoCapacity where too many are under way."""
        if self.requests >= self._max_requests:
            raise NoCapacity(_FULL.what, where=_FULL.where, remedy=_FULL.remedy)
        self.requests += 1

    def leave(self) -> None:
        """One that was taken is answered, or given up."""
        self.requests -= 1
        if self.requests == 0 and self._none is not None:
            self._none.set()

    async def emptied(self, within_s: float) -> None:
        """Returns once no request is under way, or the time is over."""
        if self.requests:
            self._none = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._none.wait()

    def hold(self, size_bytes: int) -> None:
        """Counts bytes that are kept from now on. Raises NoCapacity where there is no room for them."""
        if self.bytes + size_bytes > self._max_bytes:
            what = f"requests of {self._max_bytes} bytes in all are under way, and no more fit"
            raise NoCapacity(what, where="gateway", remedy="retry later, or add gateways")
        self.bytes += size_bytes


class Lease:
    """The bytes that one connection, or one request, has of a gateway's. To be released by whoever made it."""

    __slots__ = ("_admission", "_bytes")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0

    def hold(self, size_bytes: int) -> None:
        """So many more. Raises NoCapacity."""
        self._admission.hold(size_bytes)
        self._bytes += size_bytes

    def keep(self, size_bytes: int) -> None:
        """So many more, of what is there already: there is room for it or not."""
        self._admission.bytes += size_bytes
        self._bytes += size_bytes

    def release(self) -> None:
        """All of them. Safe to repeat."""
        self._admission.bytes -= self._bytes
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
