"""What goes over a line: whole messages, with the tensors' bytes as they lie in memory.

Both ends are the same program and prove to run as the same user; no input's bytes are unpickled.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, cast

import numpy as np

from cluster.errors import HeadraceError, NoCapacity
from deployments.engines.datatypes import Array

# Rows' indices and errors of what failed go beside the outputs.
Reply = tuple[dict[str, Array], list[int], list[HeadraceError]]


class ReplicaTimes(NamedTuple):
    """When a replica got a call, began with it and was done, in Unix nanoseconds, for who asked to be told."""

    replica: str
    came_ns: int
    began_ns: int
    ended_ns: int


TimedReply = tuple[dict[str, Array], list[int], list[HeadraceError], ReplicaTimes]

_HEAD = struct.Struct("!QQII")  # bytes of the whole frame, number of the call, bytes of the pickled part, buffers behind it
_SIZE = struct.Struct("!Q")
_PEER = struct.Struct("3i")
_ASK, _REPLY = range(2)
ALIGNED_BYTES = 64
STAGED_BYTES = 128 << 10
FRAME_MOST_BYTES = 1 << 32


@dataclass(frozen=True)
class Ask:
    """Score these n rows within so many seconds. `timed`: and say when you did."""

    tensors: Mapping[str, Array]
    timeout_s: float
    timed: bool = False


class Word(Enum):
    """Messages without content: the replica takes calls; it has no room; it stops; the caller gives its call up; the caller asks
    which of READY and GOING it is."""

    READY = 1
    FULL = 2
    GOING = 3
    NEVER_MIND = 4
    ARE_YOU_THERE = 5


@dataclass(frozen=True)
class Broken:
    """The replica raised: `refusal` where it may be asked again, else `what` says what it was."""

    what: str
    refusal: NoCapacity | None = None


def packed(call: int, message: object) -> list[bytes | memoryview]:
    """A message about a call, as pieces to be written one after the other. The tensors' bytes are not copied."""
    if isinstance(message, Ask):
        more = (True,) if message.timed else ()
        message = _ASK, _laid_out(message.tensors), message.timeout_s, *more
    elif isinstance(message, tuple):
        message = _REPLY, _laid_out(message[0]), *message[1:]
    buffers: list[memoryview] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=lambda buffer: buffers.append(buffer.raw()))
    at = _HEAD.size + len(buffers) * _SIZE.size + len(data)
    sizes = b"".join([_SIZE.pack(buffer.nbytes) for buffer in buffers])
    pieces: list[bytes | memoryview] = []
    for buffer in buffers:
        gap = -at % ALIGNED_BYTES
        pieces += [bytes(gap), buffer]
        at += gap + buffer.nbytes
    return [_HEAD.pack(at, call, len(data), len(buffers)) + sizes + data, *pieces]


def unpacked(frame: bytearray) -> tuple[int, Any]:
    """The call's number and the message, whose tensors lie in `frame`."""
    _, call, data_bytes, count = _HEAD.unpack_from(frame)
    view = memoryview(frame)
    at = _HEAD.size + count * _SIZE.size + data_bytes
    buffers = []
    for index in range(count):
        (size,) = _SIZE.unpack_from(frame, _HEAD.size + index * _SIZE.size)
        at += -at % ALIGNED_BYTES
        buffers.append(view[at : at + size])
        at += size
    data = view[_HEAD.size + count * _SIZE.size :][:data_bytes]
    message = pickle.loads(data, buffers=buffers)  # noqa: S301 (written by our own program, run by the same user)
    if isinstance(message, tuple):
        kind, laid_out, *rest = message
        tensors = _tensors(laid_out)
        message = Ask(tensors, *rest) if kind == _ASK else (tensors, *rest)
    return call, message


def received(end: socket.socket, staged: bytearray) -> tuple[int, Any]:
    """The next message at a blocking socket whose other end writes one at a time and waits for its answer. Usually a single
    read, into `staged`, which is used again. Raises ConnectionResetError where the other end closes."""
    got = _read(end, memoryview(staged))
    while got < _SIZE.size:
        got += _read(end, memoryview(staged)[got:])
    frame = bytearray(_SIZE.unpack_from(staged)[0])
    frame[:got] = staged[:got]
    rest = memoryview(frame)[got:]
    while rest:
        rest = rest[_read(end, rest) :]
    return unpacked(frame)


def _read(end: socket.socket, into: memoryview) -> int:
    got = end.recv_into(into)
    if got == 0:
        raise ConnectionResetError("the other end closed")
    return got


def _laid_out(tensors: Mapping[str, Array]) -> list[tuple[Any, ...]]:
    """Name, dtype, shape and bytes of each: numpy's own way to pickle an array takes twice as long."""
    return [
        (name, tensor)
        if tensor.dtype.hasobject
        else (name, tensor.dtype.str, tensor.shape, pickle.PickleBuffer(np.ascontiguousarray(tensor).data))
        for name, tensor in tensors.items()
    ]


def _tensors(laid_out: list[tuple[Any, ...]]) -> dict[str, Array]:
    return {name: rest[0] if len(rest) == 1 else np.ndarray(rest[1], rest[0], rest[2]) for name, *rest in laid_out}


class Frames(asyncio.BufferedProtocol):
    """One end of a line: tells `made` of its begin, `heard` of every message, with its call's number, and `lost` of its end."""

    def __init__(
        self,
        heard: Callable[[Frames, int, Any], None],
        lost: Callable[[Frames], None],
        made: Callable[[Frames], None] | None = None,
    ) -> None:
        self._made = made
        self._heard = heard
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._staged = bytearray(STAGED_BYTES)
        self._filled = 0  # of the staged bytes, or of the frame that is too large for them
        self._frame: bytearray | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        if _same_user(transport.get_extra_info("socket").fileno()):
            self._transport = cast(asyncio.Transport, transport)
            if self._made is not None:
                self._made(self)
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop."""
        self._transport = None
        self._lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Called by the loop."""
        return memoryview(self._frame if self._frame is not None else self._staged)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop."""
        self._filled += nbytes
        if self._frame is None:
            self._cut()
        elif self._filled == len(self._frame):
            whole, self._frame, self._filled = self._frame, None, 0
            self._heard(self, *unpacked(whole))

    def send(self, call: int, message: object) -> None:
        """Writes a message; nothing where the line has ended, of which `lost` tells."""
        if self._transport is not None:
            self._transport.writelines(packed(call, message))

    def close(self) -> None:
        """Ends the line once everything is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the line at once."""
        if self._transport is not None:
            self._transport.abort()

    def _cut(self) -> None:
        """Takes whole frames from the staged bytes."""
        begin = 0
        while self._filled - begin >= _HEAD.size:
            size = _SIZE.unpack_from(self._staged, begin)[0]
            if not _HEAD.size <= size <= FRAME_MOST_BYTES:
                self.abort()  # no end of ours writes such a frame
                return
            if size > self._filled - begin:
                if size > STAGED_BYTES:
                    self._frame = bytearray(size)
                break
            self._heard(self, *unpacked(self._staged[begin : begin + size]))
            begin += size
        rest = self._filled - begin
        (self._staged if self._frame is None else self._frame)[:rest] = self._staged[begin : self._filled]
        self._filled = rest


def _same_user(descriptor: int) -> bool:
    """Whether the process at the other end of a connected Unix socket runs as we do."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        _, user, _ = _PEER.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(user == os.geteuid())
