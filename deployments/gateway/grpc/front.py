"""HAProxy on the gRPC port: `ModelInfer` to the lane, everything else to grpc.aio.

It inherits a socket that is bound here: so a port that can't be had is told here, callers wait where it is started again, and a
node's gateway replicas share the port. It ends with this process, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from cluster.errors import Unreachable
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.grpc.service import SERVICE

_log = logging.getLogger(__name__)

AGAIN_S = 1.0
AGAIN_AT_MOST_S = 30.0
LASTED_S = 30.0  # one that ran for so long did not die of how it was started
SAID_CHARACTERS = 2000  # of its last words
BACKLOG = 1024
# A head that does not fit ends its whole connection, with the calls of everybody on it. One that fits and is too large all the
# same is refused behind, alone.
BUFFER_BYTES = 64 << 10
# Runs a program that the kernel kills when the thread that started it ends: HAProxy alone would go on to hold the port.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# Calls may be as long as their deadlines, and streams as long as their callers like: who goes without a word is found by TCP. A
# message's frames pass by a buffer of fixed size, whatever its length.
_CONFIGURATION = """
global
    nbthread 1
    maxconn 16384
    no strict-limits
    tune.bufsize {buffer_bytes}
    tune.h2.fe.max-concurrent-streams {most}
    tune.h2.fe.initial-window-size 1048576
    tune.h2.be.max-concurrent-streams {most}
    tune.h2.be.initial-window-size 1048576
defaults
    mode http
    timeout connect 5s
    timeout client 20d
    timeout server 20d
    timeout http-request 60s
    timeout http-keep-alive 20d
    option clitcpka
    option abortonclose
    http-reuse always
frontend grpc
    bind fd@{listening} proto h2
    http-request return status 405 content-type application/json string '{{"error": "{post}"}}' if !METH_POST
    use_backend lane if METH_POST {{ path /{service}/ModelInfer }} !{{ req.hdr(grpc-encoding) -m found }}
    default_backend aio
backend lane
    server lane abns@{lane}
backend aio
    server aio 127.0.0.1:{aio_port} proto h2
"""


def haproxy() -> Path | None:
    """See `usable_haproxy`; None where it can't run too, which is logged: grpc.aio can do without."""
    try:
        return usable_haproxy()
    except Unreachable as error:
        _log.warning("gRPC is served without HAProxy, and more slowly: %s", error)
        return None


@dataclass(frozen=True, slots=True)
class Behind:
    """Where HAProxy hands calls on: the lane's name, and grpc.aio's port on loopback. Both refuse more than `max_calls`."""

    lane: str
    aio_port: int
    max_calls: int


def wait_s(last_wait_s: float, ran_s: float) -> float:
    """How long to wait before a start, after a process that ran for `ran_s` and before whose start `last_wait_s` had passed."""
    return AGAIN_S if ran_s >= LASTED_S else min(max(2 * last_wait_s, AGAIN_S), AGAIN_AT_MOST_S)


class GrpcFront:
    """One HAProxy, started again where it ends. Used on one event loop, whose thread must live as long as it."""

    def __init__(self, binary: Path, host: str, port: int, behind: Behind) -> None:
        """Listens and starts. `port` then tells where: a free one where 0 was asked for. Raises OSError where it can't be had."""
        self._binary = binary
        self._listening = _listening(host, port)
        self.port: int = self._listening.getsockname()[1]
        self._said = _scrap()
        self._configuration = _scrap()
        self._configuration.write(_configuration(self._listening.fileno(), behind))
        self._configuration.flush()
        self._ended = asyncio.Event()
        self._process = self._spawn()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self, within_s: float) -> None:
        """Takes no more connections and lets callers know; those that are open end with their calls, or after `within_s`. Safe to
        repeat."""
        self._watching.cancel()
        for held in (self._listening, self._configuration, self._said):
            held.close()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR1)
            try:
                async with asyncio.timeout(within_s):
                    await self._ended.wait()
            except TimeoutError:
                self._process.kill()
                await self._ended.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        held = self._configuration.fileno()
        process = subprocess.Popen(
            [sys.executable, "-ISc", _TIED, str(os.getpid()), self._binary, "-db", "-f", f"/dev/fd/{held}"],
            pass_fds=(self._listening.fileno(), held),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
        )
        try:
            watched = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        self._ended.clear()
        loop = asyncio.get_running_loop()

        def over() -> None:
            loop.remove_reader(watched)
            os.close(watched)
            process.wait()  # it has ended
            self._ended.set()

        loop.add_reader(watched, over)
        return process

    async def _watch(self) -> None:
        waited_s = 0.0
        while True:
            begun_s = time.monotonic()
            await self._ended.wait()
            waited_s = wait_s(waited_s, time.monotonic() - begun_s)
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip()
            self._said.seek(0)
            self._said.truncate()
            _log.error(
                "HAProxy for gRPC ended with %s; it is started again in %g s: %s",
                self._process.returncode,
                waited_s,
                said[-SAID_CHARACTERS:],
            )
            waited_s = await self._start_again(waited_s)

    async def _start_again(self, in_s: float) -> float:
        """Returns once it is started; how long was waited for that the last time."""
        while True:
            await asyncio.sleep(in_s)
            try:
                self._process = self._spawn()
            except OSError as error:  # no memory, or no descriptors, just now
                in_s = wait_s(in_s, 0.0)
                _log.error("HAProxy for gRPC could not be started; it is tried again in %g s: %s", in_s, error)
            else:
                return in_s


def _listening(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            listening.setsockopt(socket.SOL_SOCKET, option, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _scrap() -> IO[bytes]:
    """A file without a name."""
    return cast(IO[bytes], tempfile.TemporaryFile())


def _configuration(listening: int, behind: Behind) -> bytes:
    return _CONFIGURATION.format(
        buffer_bytes=BUFFER_BYTES,
        post="only gRPC is served on this port (HTTP is on the other)",
        listening=listening,
        service=SERVICE,
        lane=behind.lane,
        aio_port=behind.aio_port,
        most=2 * behind.max_calls,
    ).encode()
