"""HAProxy as the keeper's child: started with sockets that it inherits, killed by the kernel when the keeper ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from deployments.gateway.door.configuration import STATE, Listening, configuration, slots_state
from deployments.gateway.door.settings import DoorSettings
from deployments.gateway.door.slots import taken_slots

FIRST_WAIT_S, WAIT_AT_MOST_S = 0.05, 5.0
LASTED_S = 0.2  # one that ran for so long did not die of how it was started: that takes 10 ms
SAID_BYTES = 4000  # of its last words
# Of this process's descriptors: what is no caller's connection, nor the one to a gateway that goes with it.
OTHER_FILES = 256
_PR_SET_PDEATHSIG = 1


class HaproxyProcess:
    """One HAProxy, started again where it ends. Used on one event loop, in a process with one thread that lives as long as it."""

    def __init__(self, settings: DoorSettings, folder: Path, http: int, grpc: int | None, log: Callable[[str], None]) -> None:
        """`http` and `grpc` are listening sockets by their numbers. `log` is told why one ended."""
        self._settings = settings
        self._folder = folder
        self._listening = Listening(http, grpc, connections_most(settings))
        self._log = log
        self._libc = ctypes.CDLL(None)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._said = bytearray()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the one that runs, or ran last."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Runs it, again and again, until it is cancelled; then `end` it."""
        wait_s = 0.0
        while True:
            begun_s = time.monotonic()
            try:
                self._start()
            except OSError as error:  # no memory, or no descriptors, just now
                self._log(f"HAProxy can't be started: {error}")
            else:
                await self._ended.wait()
                self._log(f"HAProxy ended with {self._returned()}: {self._last_words()}")
            wait_s = next_wait_s(wait_s, time.monotonic() - begun_s)
            await asyncio.sleep(wait_s)

    async def end(self, within_s: float) -> None:
        """It takes no more, and ends with its last request, or after so many seconds. Safe to repeat."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGUSR1)
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            process.kill()
            process.wait()

    def _start(self) -> None:
        settings, folder = self._settings, self._folder
        (folder / STATE).write_text(slots_state(settings, taken_slots(folder, settings.slots)), encoding="utf-8")
        file = folder / "haproxy.cfg"
        file.write_text(configuration(settings, folder, self._listening), encoding="utf-8")
        inherited = tuple(one for one in (self._listening.http, self._listening.grpc) if one is not None)
        keeper = os.getpid()
        libc = self._libc

        def tie() -> None:  # between fork and exec, in a process with one thread
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

        self._process = subprocess.Popen(
            [settings.binary, "-db", "-f", str(file)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            preexec_fn=tie,
        )
        self.starts += 1
        self._said.clear()
        self._ended.clear()
        self._listen(self._process)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """It has ended where it says no more."""
        loop = asyncio.get_running_loop()
        said = cast(IO[bytes], process.stderr)
        os.set_blocking(said.fileno(), False)

        def more() -> None:
            with contextlib.suppress(BlockingIOError):
                piece = os.read(said.fileno(), SAID_BYTES)
                self._said += piece
                del self._said[:-SAID_BYTES]
                if not piece:
                    loop.remove_reader(said.fileno())
                    said.close()
                    process.wait()
                    self._ended.set()

        loop.add_reader(said.fileno(), more)

    def _returned(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def _last_words(self) -> str:
        return self._said.decode(errors="replace").strip() or "(without a word)"


def next_wait_s(last_wait_s: float, ran_s: float) -> float:
    """How long to wait before a start, after a process that ran for `ran_s` and before whose start `last_wait_s` had passed."""
    return FIRST_WAIT_S if ran_s >= LASTED_S else min(max(2 * last_wait_s, FIRST_WAIT_S), WAIT_AT_MOST_S)


def connections_most(settings: DoorSettings) -> int:
    """As many as were asked for, or as this process may have: each needs a descriptor, and one to a gateway."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return settings.connections_most
    return max(64, min(settings.connections_most, (hard - OTHER_FILES) // 2))
