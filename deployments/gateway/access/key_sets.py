"""The keys of each issuer that is believed: the newest, and the last good ones while an issuer is away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from cluster.access.issuers import Issuer
from cluster.errors import HeadraceError, Unreachable, in_words
from deployments.gateway.access.key_fetching import FetchedKeys, fetch_keys
from deployments.gateway.access.signing_keys import NO_KEYS, ParsedKeys, SigningKeys, parse_keys

UNKNOWN_AGAIN_S = 30.0
PAUSE_S, PAUSE_MOST_S = 1.0, 60.0

_log = logging.getLogger(__name__)

Clock = Callable[[], float]
Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when the event is set, or after `timeout_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


class KeySets:
    """Of the issuers that `follow` was told of last. Used on one event loop; what asks it (`issuer_of`, `keys_of`) never waits.

    `clock` (seconds, from anywhere) and `wait` are time itself; tests have their own.
    """

    def __init__(self, clock: Clock = time.monotonic, wait: Wait = wait_at_most) -> None:
        self._clock, self._wait = clock, wait
        self._by_iss: dict[str, Issuer] = {}
        self._kept: dict[str, _KeptKeys] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._started = False

    def start(self) -> None:
        """Begins to ask, on the running event loop."""
        self._started = True
        for name in self._kept:
            self._begin(name)

    async def close(self) -> None:
        """Asks no more. What is known stays."""
        self._started = False
        for name in list(self._tasks):
            self._end(name)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def follow(self, issuers: Iterable[Issuer]) -> None:
        """Whose keys to keep from now on: no two of one name or one `iss`. Equal ones change nothing; whose keys come from
        another place has none until they come from there."""
        wanted = {issuer.name: issuer for issuer in issuers}
        for name, kept in list(self._kept.items()):
            if name not in wanted or _source(wanted[name]) != _source(kept.issuer):
                self._end(name)
                del self._kept[name]
        for name, issuer in wanted.items():
            if name in self._kept:
                self._kept[name].issuer = issuer
                continue
            self._kept[name] = _KeptKeys(issuer, self._clock, self._wait)
            if self._started:
                self._begin(name)
        self._by_iss = {issuer.issuer: issuer for issuer in wanted.values()}

    async def first(self, timeout_s: float) -> None:
        """Waits until each issuer was asked once, or read of, whatever came of it; `timeout_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for kept in list(self._kept.values()):
                    await kept.asked.wait()

    def issuer_of(self, iss: str) -> Issuer | None:
        """The one with exactly this `iss`."""
        return self._by_iss.get(iss)

    def keys_of(self, name: str) -> SigningKeys:
        """Those of the issuer of this name; empty where none are here yet."""
        kept = self._kept.get(name)
        return NO_KEYS if kept is None else kept.keys

    def key_unknown(self, name: str) -> None:
        """A token names a key that is not among them: the issuer is asked, unless he was within 30 s; if so, after these."""
        if (kept := self._kept.get(name)) is not None:
            kept.ask_soon()

    def _begin(self, name: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._kept[name].run(), name=f"keys of issuer {name}")

    def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)  # an event loop alone does not hold it
            task.add_done_callback(self._ending.discard)


def _source(issuer: Issuer) -> tuple[str, str]:
    return issuer.issuer, issuer.keys


class _KeptKeys:
    """Of one issuer."""

    def __init__(self, issuer: Issuer, clock: Clock, wait: Wait) -> None:
        self.issuer = issuer
        self.keys = NO_KEYS
        self.asked = asyncio.Event()
        self._clock, self._wait = clock, wait
        self._sooner = asyncio.Event()
        self._asked_s = self._due_s = clock()
        self._failures = 0
        self._digest = b""

    async def run(self) -> None:
        """Goes on until cancelled."""
        while True:
            await self._refresh()
            self.asked.set()
            while (left_s := self._due_s - self._clock()) > 0:
                await self._wait(self._sooner, left_s)
                self._sooner.clear()

    def ask_soon(self) -> None:
        """Brings the next time forward to 30 s after the last one began."""
        due_s = self._asked_s + UNKNOWN_AGAIN_S
        if due_s < self._due_s:
            self._due_s = due_s
            self._sooner.set()

    async def _refresh(self) -> None:
        self._asked_s = self._clock()
        try:
            fetched = await fetch_keys(self.issuer)
            digest, parsed = await asyncio.to_thread(_parsed, fetched, self._digest, self.issuer.name)
        except HeadraceError as error:
            self._failed(str(error))
        except Exception as fault:  # noqa: BLE001 (a mistake of ours: the keys that are here go on counting, and it is told)
            self._failed(in_words(fault))
        else:
            self._came(digest, parsed)
            self._due_s = self._clock() + fetched.again_s

    def _came(self, digest: bytes, parsed: ParsedKeys | None) -> None:
        name = self.issuer.name
        if self._failures:
            self._failures = 0
            _log.info("issuer %s: its keys come again", name)
        if parsed is None:
            return
        self.keys, self._digest = parsed.keys, digest
        _log.info("issuer %s: %d keys", name, sum(map(len, parsed.keys.values())))
        if parsed.left_out:
            _log.warning("issuer %s: keys that can't be used are left out: %s", name, "; ".join(parsed.left_out))

    def _failed(self, why: str) -> None:
        if not self._failures:  # once: it may go on for days
            stays = "the last ones go on counting" if self.keys else "its tokens are refused until they come"
            _log.warning("issuer %s: no keys, %s: %s", self.issuer.name, stays, why)
        self._due_s = self._clock() + min(PAUSE_S * 2 ** min(self._failures, 10), PAUSE_MOST_S)
        self._failures += 1


def _parsed(fetched: FetchedKeys, known: bytes, where: str) -> tuple[bytes, ParsedKeys | None]:
    """The digest of what came, and what is usable of it; None where it is what is `known`. Raises Unreachable if nothing is."""
    digest = hashlib.sha256(fetched.data).digest()
    if digest == known:
        return digest, None
    try:
        return digest, parse_keys(fetched.data)
    except ValueError as error:
        remedy = "see what the address, or file, of its keys has to say"
        raise Unreachable(str(error), where=f"issuer {where}", remedy=remedy) from None
