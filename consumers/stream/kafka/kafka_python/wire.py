"""How kafka-python takes bytes from the wire: 4 kB a call, and each copied once more than needed (pinned below 3.1).

Measured with events of 3 kB: a fifth of the processor's time of a whole worker.
"""

from __future__ import annotations

from kafka.errors import KafkaConnectionError  # type: ignore[import-untyped]
from kafka.net import manager  # type: ignore[import-untyped]
from kafka.net.transport import KafkaTCPTransport  # type: ignore[import-untyped]
from kafka.protocol.frame import KafkaBytes  # type: ignore[import-untyped]

RECEIVE_BYTES = 65_536  # of 16, 64 and 256 kB the best


class WideTransport(KafkaTCPTransport):  # type: ignore[misc]  # kafka-python is untyped
    """Reads all that is there, 64 kB a call. Without TLS, which has its own."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        pieces: list[bytes] = []
        try:
            while piece := self._sock.recv(RECEIVE_BYTES):
                pieces.append(piece)
        except (BlockingIOError, InterruptedError):
            return b"".join(pieces), None
        except Exception as error:  # noqa: BLE001  # whatever it is, the client ends the connection for it
            return b"".join(pieces), KafkaConnectionError(error)
        return b"".join(pieces), KafkaConnectionError("socket disconnected")


def _read(self: KafkaBytes, size: int | None = None) -> bytes:
    start = self._idx
    self._idx = len(self) if size is None else min(start + size, len(self))
    with memoryview(self) as view:
        return bytes(view[start : self._idx])


def read_wide() -> None:
    """For all clients that this process makes from now on. May be called again."""
    manager.KafkaTCPTransport = WideTransport
    KafkaBytes.read = _read
