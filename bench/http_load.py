"""A load generator for HTTP/1.1: some connections in a process of its own, each with one request under way.

`python -m bench.http_load PORT CONNECTIONS SECONDS RATE` reads one whole request from standard input, in hexadecimal digits, and
prints a JSON line. With ROUNDS as a fifth argument it reads several, a line each, and asks them in turn.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

UNCOUNTED_S = 0.5  # what was asked last is answered, and its shadows are scored


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run saw. `failed` are answers other than 200. `took_ms` is of each request, where a rate was asked.

    `processor_us` is what a request took of each process that served it, where that was measured.
    """

    requests_per_s: float
    p99_ms: float
    failed: int
    answer_bytes: int
    took_ms: Sequence[float] = ()
    processor_us: Mapping[str, float] = field(default_factory=dict)


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
    return Measured(**_run([message], port, connections, seconds, requests_per_s))


def measure_in_turn(
    port: int, messages: Sequence[bytes], *, connections: int, seconds: float, rounds: int
) -> list[list[Measured]]:
    """As fast as answers come: in each round each message is asked once, in an order that is drawn, for so many seconds that
    count, after `UNCOUNTED_S` that do not. The rounds of each message.

    A machine's own speed differs from minute to minute: what is compared is asked second by second.
    """
    found = _run(messages, port, connections, seconds, 0.0, rounds)
    return [[Measured(**turn) for turn in turns] for turns in found]


def _run(messages: Sequence[bytes], *arguments: float) -> Any:
    command = [sys.executable, "-m", "bench.http_load", *map(str, arguments)]
    lines = b"\n".join(message.hex().encode() for message in messages)
    return orjson.loads(subprocess.run(command, input=lines, stdout=subprocess.PIPE, check=True).stdout)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> tuple[bool, int]:
    """Whether the answer was 200, and how many bytes its body had."""
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"\r\ncontent-length:")[2]  # not that of the inference header
    if length:
        answer_bytes = int(length.split(b"\r\n")[0])
        await reader.readexactly(answer_bytes)
    else:  # in chunks; no answer here holds such an end itself
        answer_bytes = len(await reader.readuntil(b"\r\n0\r\n\r\n"))
    return head.startswith(b"HTTP/1.1 200"), answer_bytes


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
            good, answer_bytes = await _ask(reader, writer, message)
            failed += not good
            took.append(time.perf_counter() - begin)
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(connections)))
    rate = len(took) / (time.perf_counter() - begin)
    took_ms = [1000 * each for each in took]
    return Measured(rate, p99(took_ms), failed, answer_bytes, took_ms if requests_per_s else ())


async def load_in_turn(
    port: int, messages: Sequence[bytes], connections: int, seconds: float, rounds: int
) -> list[list[Measured]]:
    """See `measure_in_turn`."""
    took: list[float] = []
    failed = answer_bytes = 0
    asked: bytes | None = messages[0]

    async def one() -> None:
        nonlocal failed, answer_bytes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while asked is not None:
            begin = time.perf_counter()
            good, answer_bytes = await _ask(reader, writer, asked)
            failed += not good
            took.append(time.perf_counter() - begin)
        writer.close()

    found: list[list[Measured]] = [[] for _ in messages]
    callers = [asyncio.create_task(one()) for _ in range(connections)]
    for _ in range(rounds):
        for number in random.sample(range(len(messages)), len(messages)):
            asked, failed_before = messages[number], failed
            await asyncio.sleep(UNCOUNTED_S)
            took.clear()
            begin = time.perf_counter()
            await asyncio.sleep(seconds)
            rate = len(took) / (time.perf_counter() - begin)
            found[number].append(Measured(rate, 1000 * p99(took), failed - failed_before, answer_bytes))
    asked = None
    await asyncio.gather(*callers)
    return found


def main() -> None:
    port, connections, seconds, rate, *rounds = sys.argv[1:]
    messages = [bytes.fromhex(line) for line in sys.stdin.read().split()]
    found: Any
    if rounds:
        found = asyncio.run(load_in_turn(int(port), messages, int(connections), float(seconds), int(rounds[0])))
    else:
        found = asyncio.run(load(int(port), messages[0], int(connections), float(seconds), float(rate)))
    sys.stdout.buffer.write(orjson.dumps(found))


if __name__ == "__main__":
    main()
