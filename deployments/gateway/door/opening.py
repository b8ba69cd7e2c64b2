"""A gateway's part of its node's door: a slot, and a keeper, which the first gateway starts and any starts again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.error_wire import from_wire
from cluster.errors import Conflict, HeadraceError, Unreachable
from deployments.gateway.door.files import holder_of, is_locked, waited_lock
from deployments.gateway.door.health import count_connections, is_up
from deployments.gateway.door.keeper import KEEPER_LOCK, LOG, START_LOCK
from deployments.gateway.door.other_gateways import OtherGateways
from deployments.gateway.door.settings import DoorSettings, read_settings
from deployments.gateway.door.slots import Slot, door_folder, folder_of, take_slot, taken_slots
from deployments.observe.meters import Meters

_log = logging.getLogger(__name__)

STARTS_WITHIN_S = 10.0
OPENS_WITHIN_S = 20.0
ENDS_WITHIN_S = 5.0
AGAIN_S = 0.05
SAID_BYTES = 2000  # of the keeper's log


class Door:
    """One gateway's. Used on one event loop; `enter` blocks for a tenth of a second where there is no keeper yet."""

    def __init__(self, settings: DoorSettings, folder: Path, slot: Slot) -> None:
        self.slot = slot
        self._settings = settings
        self._folder = folder
        self._watching: list[asyncio.Task[None]] = []

    @classmethod
    def enter(cls, settings: DoorSettings, node_id: str) -> Door:
        """Takes a slot, with a keeper on the node. Raises Unreachable where the ports can't be had, BadInput where a file of TLS
        does not hold, Conflict where the door is in use with other settings, NoCapacity where all slots are taken."""
        while True:
            folder = door_folder(node_id)
            with contextlib.suppress(FileNotFoundError), waited_lock(folder / START_LOCK) as is_there:
                if is_there and _has_settings(folder, settings):
                    _ensure_keeper(folder)
                    return cls(settings, folder, take_slot(folder, settings.slots))

    def other_gateways(self) -> OtherGateways:
        """The other gateways of this node, now and later."""
        return OtherGateways(self._folder, self.slot.number, self._settings.slots)

    def watch(self, node: str = "", meters: Meters | None = None) -> None:
        """From now on a keeper that ends is started again, and the door's connections are counted, as those of `node`."""
        loop = asyncio.get_running_loop()
        self._watching = [
            loop.create_task(self._watch()),
            loop.create_task(count_connections(self._folder, node, meters or Meters())),
        ]

    async def opened(self) -> None:
        """Returns once HAProxy has found this gateway up. Raises Unreachable where it does not in time."""
        end_s = time.monotonic() + OPENS_WITHIN_S
        while not await is_up(self._folder, self.slot.number):
            if time.monotonic() > end_s:
                raise Unreachable(
                    f"HAProxy does not find the gateway within {OPENS_WITHIN_S:.0f} s: {_last_words(self._folder)}",
                    where=f"{self._settings.host}:{self._settings.http_port}",
                    remedy="read the gateway's log; HEADRACE_HAPROXY=0 does without HAProxy",
                )
            await asyncio.sleep(AGAIN_S)

    async def leave(self) -> None:
        """Gives the slot up. The keeper stays a while, for the next gateway. Safe to repeat."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._watching = []
        self.slot.release()

    async def _watch(self) -> None:
        while True:
            watched = holder_of(self._folder / KEEPER_LOCK)
            if watched is None:
                try:
                    await asyncio.to_thread(self._start_again)
                except (HeadraceError, OSError) as error:
                    _log.error("the door's keeper can't be started again: %s", error)
                    await asyncio.sleep(1.0)
                continue
            try:
                await _readable(watched)
            finally:
                os.close(watched)
            _log.error("the door's keeper has ended; it is started again")

    def _start_again(self) -> None:
        with waited_lock(self._folder / START_LOCK):
            _ensure_keeper(self._folder)


def close_door(node_id: str) -> None:
    """Ends the keeper of a node on which no gateway is left; nothing happens elsewhere. Returns when it has ended."""
    folder = folder_of(node_id)
    with contextlib.suppress(FileNotFoundError), waited_lock(folder / START_LOCK):
        if not taken_slots(folder, read_settings(folder).slots):
            _end_keeper(folder)
            shutil.rmtree(folder, ignore_errors=True)  # where a keeper was killed


def _has_settings(folder: Path, wanted: DoorSettings) -> bool:
    """Whether the door is as wanted, where there is one; writes them where there is none. False where the old one was ended."""
    if is_locked(folder / KEEPER_LOCK):
        found = read_settings(folder)
        if _alike(found) == _alike(wanted):
            return True
        if taken_slots(folder, found.slots):
            address = f"{found.host}:{found.http_port}"
            raise Conflict(
                f"this node's gateways have their door at {address} already{', with TLS' if found.tls is not None else ''}",
                where=f"{wanted.host}:{wanted.http_port}",
                remedy="give the options that they were started with, or end them with `headrace down`",
            )
        _end_keeper(folder)
        return False
    wanted.write(folder)
    return True


def _alike(settings: DoorSettings) -> DoorSettings:
    return dataclasses.replace(settings, run="")


def _ensure_keeper(folder: Path) -> None:
    """Call it with the start lock held. Raises Unreachable where a port can't be had."""
    if is_locked(folder / KEEPER_LOCK):
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.gateway.door.keeper", str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STARTS_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable("the door's keeper does not start in time", where=str(folder), remedy="look at the machine") from error
    if done.returncode != 0:
        raise _why_not((done.stdout or done.stderr).decode(errors="replace").strip())


def _why_not(said: str) -> HeadraceError:
    """Pure."""
    with contextlib.suppress(ValueError):
        if (error := from_wire(json.loads(said))) is not None:
            return error
    return Unreachable(
        f"the door can't listen: {said[-SAID_BYTES:]}", where="--host, --http-port, --grpc-port", remedy="choose what is free"
    )


def _end_keeper(folder: Path) -> None:
    watched = holder_of(folder / KEEPER_LOCK)
    if watched is None:
        return
    try:
        signal.pidfd_send_signal(watched, signal.SIGTERM)
        if not select.select([watched], [], [], ENDS_WITHIN_S)[0]:
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            select.select([watched], [], [], ENDS_WITHIN_S)
    except ProcessLookupError:
        return
    finally:
        os.close(watched)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _last_words(folder: Path) -> str:
    try:
        return (folder / LOG).read_text(encoding="utf-8")[-SAID_BYTES:].strip()
    except FileNotFoundError:
        return "it runs, and has said nothing"
