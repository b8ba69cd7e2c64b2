"""The keeper of a node's door: a small process that holds the ports, runs HAProxy, and holds requests while no gateway is up.

`python -m deployments.gateway.door.keeper FOLDER` returns when it listens, and goes on alone: it belongs to no worker of Ray. It
ends with the node's Ray, or when there has been no gateway for a while, and takes the folder along. Imports here are quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from cluster.error_wire import to_wire
from cluster.errors import HeadraceError
from deployments.gateway.door.departures import Departures
from deployments.gateway.door.files import note_holder, try_lock
from deployments.gateway.door.haproxy_process import HaproxyProcess
from deployments.gateway.door.holding import Holding
from deployments.gateway.door.renewals import Renewals
from deployments.gateway.door.settings import DoorSettings, read_settings
from deployments.gateway.door.slots import BACKLOG, taken_slots

KEEPER_LOCK, START_LOCK, LOG = "keeper.lock", "start.lock", "keeper.log"
LOOK_S = 0.25
LOG_MOST_BYTES = 1 << 20
LAST_ANSWERS_S = 1.0


def main(folder: Path) -> int:
    """0: it listens, or another one does. Else 1, and standard output has said why: an error of ours as it goes over the wire."""
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            said = pipe.read()
        sys.stdout.buffer.write(said)
        return 0 if said == b"" else 1
    os.close(told)
    # A process group of its own: what ends the group of its starter passes it by. Not a session: Linux shares a processor out
    # between sessions first (autogroup), and HAProxy in one of its own would break in on the gateway for each single request.
    os.setpgid(0, 0)
    try:
        lock = try_lock(folder / KEEPER_LOCK)
        if lock is None:
            os._exit(0)
        _in_use(folder)
        settings = read_settings(folder)
        keeper = Keeper(settings, folder, *_listen(settings))
        keeper.prepare()
        note_holder(lock)
        _let_go()
    except Exception as error:  # noqa: BLE001 (whoever started this one tells it)
        os.write(tell, (json.dumps(to_wire(error)) if isinstance(error, HeadraceError) else str(error)).encode())
        os._exit(1)
    os.close(tell)
    asyncio.run(keeper.run())
    os._exit(0)


class Keeper:
    """What the process does once it listens."""

    def __init__(self, settings: DoorSettings, folder: Path, http: socket.socket, grpc: socket.socket | None) -> None:
        self._settings = settings
        self._folder = folder
        self._listening = [http] if grpc is None else [http, grpc]
        self._end = asyncio.Event()
        self._ray_has_ended = False
        self._haproxy = HaproxyProcess(settings, folder, http.fileno(), None if grpc is None else grpc.fileno(), self._log)
        self._holding = Holding(settings, folder)
        self._departures = Departures(folder, settings.slots, self._log)
        tls = settings.tls
        self._renewals = None if tls is None else Renewals(tls, folder, lambda: self._haproxy.starts, self._log)

    def prepare(self) -> None:
        """Before `run`. Raises BadInput where the door's certificate, its key or the client CA do not hold."""
        if self._renewals is not None:
            self._renewals.prepare()

    async def run(self) -> None:
        """Returns when it has ended everything, the folder included."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        self._watch_ray(loop)
        await self._holding.open()
        keeping = [loop.create_task(self._haproxy.keep())]
        if self._renewals is not None:
            keeping.append(loop.create_task(self._renewals.keep()))
        for task in keeping:
            task.add_done_callback(self._gave_up)
        used_s = time.monotonic()
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._end.wait()
            now_s = time.monotonic()
            if self._departures.look():
                used_s = now_s
            elif now_s - used_s > self._settings.idle_s and self._may_end():
                break
        for listening in self._listening:
            listening.close()
        self._departures.close()
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        await asyncio.gather(self._haproxy.end(LAST_ANSWERS_S), self._holding.close(), return_exceptions=True)
        # One that was told to end, with gateways about, is started again by them.
        if self._ray_has_ended or not taken_slots(self._folder, self._settings.slots):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _gave_up(self, task: asyncio.Task[None]) -> None:
        """What keeps the door goes on until it is cancelled. Where it fell all the same, another keeper is better: the gateways
        start one."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._log(f"the keeper ends: {type(fault).__name__}: {fault}")
            self._end.set()

    def _may_end(self) -> bool:
        """Whether no gateway is about to come: one that does holds this lock meanwhile, and looks whether the folder is left."""
        self._start_lock = try_lock(self._folder / START_LOCK)
        if self._start_lock is None:
            return False
        if taken_slots(self._folder, self._settings.slots):
            os.close(self._start_lock)
            return False
        return True

    def _watch_ray(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._settings.raylet_pid is None:
            return
        try:
            watched = os.pidfd_open(self._settings.raylet_pid)
        except ProcessLookupError:
            self._ray_has_ended = True
            self._end.set()
            return

        def ended() -> None:
            loop.remove_reader(watched)
            self._ray_has_ended = True
            self._end.set()

        loop.add_reader(watched, ended)

    def _log(self, line: str) -> None:
        file = self._folder / LOG
        with contextlib.suppress(OSError), file.open("a", encoding="utf-8") as log:
            if log.tell() > LOG_MOST_BYTES:
                log.truncate(0)
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _listen(settings: DoorSettings) -> tuple[socket.socket, socket.socket | None]:
    http = _listening(settings.host, settings.http_port)
    return http, None if settings.grpc_port is None else _listening(settings.host, settings.grpc_port)


def _listening(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(f"{host}:{port}: {error.strerror}") from error
    return listening


def _in_use(folder: Path) -> None:
    """Whoever tidies temporary folders up leaves one alone that is locked, for as long as this process lives."""
    fcntl.flock(os.open(folder, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)


def _let_go() -> None:
    """Of whoever started this one: his folder, and what he reads and writes."""
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
