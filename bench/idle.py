"""`python -m bench.idle [--quick] [--json]`: what a thousand idle connections cost the gateway and those who use it.

Rounds with and without them take turns; each connection was used once. By HTTP and by gRPC: requests/s and p99 of others
(medians), the processor time that the gateway and HAProxy take while nobody calls (the mean), and their memory before and as the
first connections come, since HAProxy keeps it for the next. The reference is without.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import grpc.aio
import psutil
from rich.console import Console

from bench import grpc_load, http_load
from bench.figures import Figure, show
from bench.http_load import Measured, refuse_failed
from bench.online import GRPC_METHOD, compared
from bench.service import Service, grpc_message, http_message, running
from deployments.gateway.door.found import keeper_of

MODEL = "bench-idle"
IDLE = 1000
AT_ONCE = 50
DOORS = ("http", "grpc")


@dataclass(frozen=True, slots=True)
class Seen:
    """In one round."""

    calls: Measured
    cpu_ms_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under five minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--connections", type=int, default=32, help="of those who call")
    options = parser.parse_args()
    rounds, seconds = (3, 3.0) if options.quick else (5, 6.0)
    figures: list[Figure] = []
    with running() as service:
        service.apply(MODEL, {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, {})
        service.rollout_at(MODEL, service.register(MODEL, 128), "promoted")
        for door in DOORS:
            look = partial(seen, service, door, options.connections, seconds)
            look()
            before_bytes, after_bytes, held, free = memory_bytes(), 0, list[Seen](), list[Seen]()
            for _ in range(rounds):
                with idle(service, door):
                    after_bytes = after_bytes or memory_bytes()
                    held.append(look())
                free.append(look())
            Console(stderr=True).print(f"{door}, with: {held}\n{door}, without: {free}")
            name = f"online.idle.{door}"
            figures += compared(name, [one.calls for one in held], [one.calls for one in free])
            cpu = (statistics.fmean(one.cpu_ms_per_s for one in each) for each in (held, free))
            figures.append(Figure(f"{name}.cpu", *cpu, "ms/s (lower is better)"))
            figures.append(Figure(f"{name}.memory_bytes", after_bytes, before_bytes, "bytes (lower is better)"))
    show(figures, as_json=options.json)


def seen(service: Service, door: str, connections: int, seconds: float) -> Seen:
    """A round of calls, and as long a time without. Raises SystemExit where a call failed."""
    if door == "http":
        calls = http_load.measure(service.port, http_message(MODEL), connections=connections, seconds=seconds)
    else:
        message = grpc_message(MODEL)
        calls = grpc_load.measure(f"127.0.0.1:{service.grpc_port}", GRPC_METHOD, message, calls=connections, seconds=seconds)
    refuse_failed([calls])
    time.sleep(1.0)  # what the calls leave behind is over then
    ours = processes()
    before_s = cpu_s(ours)
    time.sleep(seconds)
    return Seen(calls, 1000 * (cpu_s(ours) - before_s) / seconds)


def processes() -> list[psutil.Process]:
    """The gateway's replica, and its door's."""
    commands = {process: " ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)}
    gateways = [each for each, words in commands.items() if words.startswith("ray::ServeReplica:gateway:")]
    import ray  # by now its variables are set

    keeper = psutil.Process(keeper_of(ray.get_runtime_context().get_node_id()))
    return [*gateways, keeper, *keeper.children()]


def cpu_s(ours: Sequence[psutil.Process]) -> float:
    """What they have used."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in ours))


def memory_bytes() -> int:
    """What is theirs alone."""
    return sum(process.memory_full_info().uss for process in processes())


@contextmanager
def idle(service: Service, door: str) -> Iterator[None]:
    """Connections that a process of their own holds. Raises SystemExit where some were closed."""
    port, message = (service.port, http_message(MODEL)) if door == "http" else (service.grpc_port, grpc_message(MODEL))
    command = [sys.executable, "-m", "bench.idle", "hold", door, str(port), str(len(message))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(message)
        process.stdin.flush()
        if process.stdout.readline() != b"held\n":
            raise SystemExit("the connections were not to be had")
        yield
        left, _ = process.communicate()
    if int(left) != IDLE:
        raise SystemExit(f"only {int(left)} connections were kept: the figures would mean nothing")


async def hold(door: str, port: int, message: bytes) -> None:
    """Opens the connections, uses each once, and keeps them until standard input ends. Tells when all are there, and in the end
    how many still are."""
    turns = asyncio.Semaphore(AT_ONCE)
    if door == "http":
        streams = await asyncio.gather(*(_http(port, message, turns) for _ in range(IDLE)))
    else:
        channels = await asyncio.gather(*(_grpc(port, message, turns, number) for number in range(IDLE)))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    if door == "http":
        print(sum(not reader.at_eof() for reader, _ in streams))
    else:
        print(sum(channel.get_state() is grpc.ChannelConnectivity.READY for channel in channels))


async def _http(port: int, message: bytes, turns: asyncio.Semaphore) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with turns:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        return reader, writer


async def _grpc(port: int, message: bytes, turns: asyncio.Semaphore, number: int) -> grpc.aio.Channel:
    async with turns:
        # Channels with the same options share a connection.
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("bench.number", number)])
        await channel.unary_unary(GRPC_METHOD)(message)
        return channel


if __name__ == "__main__":
    if sys.argv[1:2] == ["hold"]:
        asyncio.run(hold(sys.argv[2], int(sys.argv[3]), sys.stdin.buffer.read(int(sys.argv[4]))))
    else:
        main()
