"""A load generator for HTTP/1.1: some connections in a process of its own, each with one request under way.

`python -m bench.http_load PORT CONNECTIONS SECONDS` reads one whole request from standard input and prints a JSON line.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run saw. `failed` are answers other than 200. `took_ms` is of each request, where a rate was asked."""

    requests_per_s: float
    p99_ms: float
    failed: int
    answer_bytes: int
    took_ms: Sequence[float] = ()


def p99(took: Sequence[float]) -> float:
    """What one in a hundred exceeds."""
    return sorted(took)[int(0.99 * (len(took) - 1))]


def refuse_failed(measured: Iterable[Measured]) -> None:
    """Raises SystemExit where a request failed."""
    if failed := sum(one.failed for one in measured):
        raise SystemExit(f"{failed} requests failed: the figures would mean nothing")


def request(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """One POST as it goes over the wire."""
    lines = {"host": "bench", "content-length": str(len(body)), **(headers or {})}
    return "".join((f"POST {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n")).encode() + body


def measure(port: int, message: bytes, *, connections: int, seconds: float, requests_per_s: float = 0.0) -> Measured:
    """Runs the load in a process of its own: as fast as answers come, or `requests_per_s` whatever the answers do."""
    command = [sys.executable, "-m", "bench.http_load", str(port), str(connections), str(seconds), str(requests_per_s)]
    answer = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout
    return Measured(**orjson.loads(answer))


async def load(port: int, message: bytes, connections: int, seconds: float, requests_per_s: float) -> Measured:
    """Every connection sends its next request when the last is answered, and not before its turn.

    With a rate, what a request took counts from its turn on: one that had to wait for the last one's answer waited all the same.
    """
    took: list[float] = []
    failed, answer_bytes = 0, 0
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal failed, answer_bytes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        every_s = connections / requests_per_s if requests_per_s else 0.0
        turn = time.perf_counter() + every_s * number / connections
        while (begin := turn if every_s else time.perf_counter()) < end:
            await asyncio.sleep(max(begin - time.perf_counter(), 0) if every_s else 0)
            turn += every_s
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2]
            if length:
                answer_bytes = int(length.split(b"\r\n")[0])
                await reader.readexactly(answer_bytes)
            else:  # in chunks; no answer here holds such an end itself
                answer_bytes = len(await reader.readuntil(b"\r\n0\r\n\r\n"))
            took.append(time.perf_counter() - begin)
            failed += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(connections)))
    rate = len(took) / (time.perf_counter() - begin)
    took_ms = [1000 * each for each in took]
    return Measured(rate, p99(took_ms), failed, answer_bytes, took_ms if requests_per_s else ())


def main() -> None:
    port, connections, seconds, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    measured = asyncio.run(load(port, sys.stdin.buffer.read(), connections, seconds, rate))
    sys.stdout.buffer.write(orjson.dumps(measured))


if __name__ == "__main__":
    main()
