"""A load generator for HTTP/1.1: some connections in a process of its own, each with one request under way.

`python -m bench.http_load PORT CONNECTIONS SECONDS` reads one whole request from standard input and prints a JSON line.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run saw. `failed` are answers other than 200."""

    requests_per_s: float
    p99_ms: float
    failed: int
    answer_bytes: int


def request(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """One POST as it goes over the wire."""
    lines = {"host": "bench", "content-length": str(len(body)), **(headers or {})}
    return "".join((f"POST {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n")).encode() + body


def measure(port: int, message: bytes, *, connections: int, seconds: float) -> Measured:
    """Runs the load in a process of its own."""
    command = [sys.executable, "-m", "bench.http_load", str(port), str(connections), str(seconds)]
    answer = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout
    return Measured(**orjson.loads(answer))


async def load(port: int, message: bytes, connections: int, seconds: float) -> Measured:
    """Every connection sends its next request when the last is answered."""
    took: list[float] = []
    failed, answer_bytes = 0, 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed, answer_bytes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begin := time.perf_counter()) < end:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            answer_bytes = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(answer_bytes)
            took.append(time.perf_counter() - begin)
            failed += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    rate = len(took) / (time.perf_counter() - begin)
    return Measured(rate, 1000 * sorted(took)[int(0.99 * (len(took) - 1))], failed, answer_bytes)


def main() -> None:
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    measured = asyncio.run(load(port, sys.stdin.buffer.read(), connections, seconds))
    sys.stdout.buffer.write(orjson.dumps(measured))


if __name__ == "__main__":
    main()
