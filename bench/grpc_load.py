"""A load generator for gRPC, some connections in a process of its own, and a bare server to compare with.

`python -m bench.grpc_load ADDRESS METHOD CALLS SECONDS [KEY]` reads one message from standard input and prints a JSON line.
`python -m bench.grpc_load serve PORT BYTES` answers every call with so many zero bytes: the least that grpc.aio can do.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio
import orjson

from bench.http_load import Measured, p99

CONNECTIONS = 4


def measure(address: str, method: str, message: bytes, *, calls: int, seconds: float, key: str = "") -> Measured:
    """Runs the load in a process of its own; each call brings the key, where there is one."""
    command = [sys.executable, "-m", "bench.grpc_load", address, method, str(calls), str(seconds), key]
    answer = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout
    return Measured(**orjson.loads(answer))


@contextmanager
def echoing(port: int, answer_bytes: int) -> Iterator[str]:
    """A bare server in a process of its own; its address."""
    process = subprocess.Popen([sys.executable, "-m", "bench.grpc_load", "serve", str(port), str(answer_bytes)])
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def load(address: str, method: str, message: bytes, calls: int, seconds: float, key: str = "") -> Measured:
    """Each of `calls` callers makes its next call when the last is answered."""
    took: list[float] = []
    metadata = (("authorization", f"Bearer {key}"),) if key else None
    failed, answer_bytes = 0, 0
    # Channels with the same options share a connection.
    channels = [grpc.aio.insecure_channel(address, options=[("bench.number", number)]) for number in range(CONNECTIONS)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
    end = time.perf_counter() + seconds

    async def one(channel: grpc.aio.Channel) -> None:
        nonlocal failed, answer_bytes
        call = channel.unary_unary(method)
        while (begin := time.perf_counter()) < end:
            try:
                answer_bytes = len(await call(message, metadata=metadata))
            except grpc.aio.AioRpcError:
                failed += 1
            took.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*(one(channels[number % CONNECTIONS]) for number in range(calls)))
    rate = len(took) / (time.perf_counter() - begin)
    for channel in channels:
        await channel.close()
    return Measured(rate, 1000 * p99(took), failed, answer_bytes)


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, answer: bytes) -> None:
        async def reply(_request: bytes, _context: object) -> bytes:
            return answer

        self._handler = grpc.unary_unary_rpc_method_handler(reply)

    def service(self, _call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._handler


async def serve(port: int, answer_bytes: int) -> None:
    """Answers until it is killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(bytes(answer_bytes)),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2]), int(sys.argv[3])))
        return
    address, method, calls, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    key = sys.argv[5] if len(sys.argv) > 5 else ""
    measured = asyncio.run(load(address, method, sys.stdin.buffer.read(), calls, seconds, key))
    sys.stdout.buffer.write(orjson.dumps(measured))


if __name__ == "__main__":
    main()
