"""One look at the controller for all consoles of a gateway, while any is open; each is told what has changed since.

There is no queue a viewer: one that is slow is told less often, and more at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from cluster.access.callers import CLUSTER, Caller
from cluster.commands.watch.glance import GLANCE
from cluster.control_plane import ControlPlane
from cluster.errors import HeadraceError, NoCapacity, in_words
from deployments.gateway.console.nodes import NodeSeen
from deployments.gateway.console.pictures import (
    House,
    PictureChange,
    PictureRow,
    Sighting,
    difference,
    event,
    merged,
    quiet_since,
    rows_of,
    visible,
)

LOOK_EVERY_S, NODES_EVERY_S = 1.0, 5.0
LATE_S = 5.0  # a controller that has not answered for so long is told to be away: Ray keeps calls to one that is being restarted
PING_S = 10.0  # below the time after which the door takes a silent caller for gone
REMEMBERED = 600  # changes: who was away for less is told what he missed
VIEWERS_MOST = 1000
FRAMES_MOST = 64
REVISION_DIGITS_MOST = 15  # Python reads no number of some thousand
PING = b": \n\n"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watching:
    """Used on one event loop. `nodes` blocks, and may raise anything: the machines are then told as they were seen last."""

    control: ControlPlane
    release: str
    nodes: Callable[[], tuple[NodeSeen, ...]] = tuple
    look_every_s: float = LOOK_EVERY_S
    late_s: float = LATE_S
    clock: Callable[[], float] = time.time
    viewers: int = 0
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    revision: int = 0
    rows: dict[str, PictureRow] = field(default_factory=dict)
    _changes: deque[PictureChange] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _frames: OrderedDict[tuple[int, int, tuple[object, ...]], bytes | None] = field(default_factory=OrderedDict)
    _seen: Sighting = field(default_factory=Sighting)
    _away_s: float | None = None
    _nodes_s: float = 0.0
    _looking: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def frames(self, who: Callable[[], Caller], last_id: str, ending: asyncio.Event) -> AsyncGenerator[bytes, None]:
        """Server-sent events for one viewer, until `ending` is set: the whole picture, or what he missed since `last_id`; then
        what changes. `who` tells who he is by now, and raises once he is nobody any more: then so does this. Raises
        NoCapacity."""
        if self.viewers >= VIEWERS_MOST:
            raise NoCapacity("too many consoles are open", where="console", remedy="close some, or add gateways")
        self.viewers += 1
        try:
            at, before = self._told(last_id), who()
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_on())
            yield b"retry: 1000\n\n"
            while not ending.is_set():
                changed, caller = self._changed, who()
                if self.revision and at != self.revision:
                    frame = self._frame(-1 if caller.grants != before.grants else at, caller)
                    at, before = self.revision, caller
                    if frame is not None:
                        yield frame
                if not await _set(changed, ending, PING_S):
                    yield PING
        finally:
            self.viewers -= 1
            if not self.viewers and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def _told(self, last_id: str) -> int:
        """The revision that a viewer has; -1 where it is none of this gateway's, or too old."""
        epoch, _, number = last_id.partition("-")
        if epoch != self.epoch or not number.isdecimal() or len(number) > REVISION_DIGITS_MOST:
            return -1
        oldest = self._changes[0].revision if self._changes else self.revision + 1
        return int(number) if oldest - 1 <= int(number) <= self.revision else -1

    def _frame(self, at: int, caller: Caller) -> bytes | None:
        """What he is told who has revision `at`: made once for all that may see the same."""
        if at >= 0 and self._changes and at < self._changes[0].revision - 1:
            at = -1
        known = at, self.revision, tuple(caller.grants)
        if known not in self._frames:
            rows = self.rows if at < 0 else merged(change for change in self._changes if change.revision > at)
            shown = visible(rows, caller)
            event_id = f"{self.epoch}-{self.revision}"
            told = event("picture" if at < 0 else "change", event_id, shown, self.clock()) if shown else None
            self._frames[known] = told
            while len(self._frames) > FRAMES_MOST:
                self._frames.popitem(last=False)
        return self._frames[known]

    async def _look_on(self) -> None:
        while True:
            begun_s = asyncio.get_running_loop().time()
            await self._look()
            took_s = asyncio.get_running_loop().time() - begun_s
            # With thousands of models a look takes the controller a while: it is to have nine tenths of its time for others.
            await asyncio.sleep(max(self.look_every_s - took_s, 9 * took_s))

    async def _look(self) -> None:
        """One look; whatever goes wrong is told in the picture itself."""
        why, begun_s = "", self.clock()
        try:
            async with self._told_where_late(begun_s):
                glance = await self.control.call(GLANCE.name, {}, CLUSTER)
            self._seen = Sighting(glance, self._seen.nodes)
            self._away_s = None
        except HeadraceError as error:
            why = error.what
            if self._away_s is None:
                self._away_s = begun_s
        await self._look_at_nodes()
        self._show_all(why)

    @contextlib.asynccontextmanager
    async def _told_where_late(self, begun_s: float) -> AsyncGenerator[None, None]:
        """Shows that the controller is away once it has not answered for `late_s`; the look goes on."""

        def late() -> None:
            if self._away_s is None:
                self._away_s = begun_s
                self._show_all("the controller does not answer")

        timer = asyncio.get_running_loop().call_later(self.late_s, late)
        try:
            yield
        finally:
            timer.cancel()

    def _show_all(self, why: str) -> None:
        seen, now_s = self._seen.glance, self.clock()
        quiet_s = None if self._away_s is not None else quiet_since(float(seen.get("tick_s", 0.0)), now_s)
        house = House(self.release, int(seen.get("table", 0)), self._away_s, quiet_s, why)
        self._show(rows_of(self._seen, house))

    async def _look_at_nodes(self) -> None:
        if 0 <= self.clock() - self._nodes_s < NODES_EVERY_S:
            return
        self._nodes_s = self.clock()
        try:
            self._seen = Sighting(self._seen.glance, await asyncio.to_thread(self.nodes))
        except Exception as error:  # noqa: BLE001 (whatever Ray raises: the picture goes on without news of nodes)
            _log.warning("the nodes can't be asked for: %s", in_words(error))

    def _show(self, rows: dict[str, PictureRow]) -> None:
        changed = difference(self.rows, rows)
        if not changed:
            return
        self.revision += 1
        self.rows = rows
        self._changes.append(PictureChange(self.revision, changed))
        self._changed.set()
        self._changed = asyncio.Event()


async def _set(changed: asyncio.Event, ending: asyncio.Event, within_s: float) -> bool:
    """Whether one of them is set in time."""
    waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(ending.wait())]
    try:
        done, _ = await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)
